/**
 * The manifest `voxtral_onnx.json`: the contract between the export and every host (manifest.py). Names, shapes, rules and
 * hashes are read from it and repeated nowhere.
 */

import { ArtifactError, UsageError } from '../shared/errors.js'
import { COUNT, DELAY, FieldError, NAME, RELATIVE_NAME, SHA256, TOKEN_ID } from './fields.js'
import { integer, list, mapOf, number, oneOf, optional, orNull, record, text } from './fields.js'

export const FORMATS = [1, 2] // that are read; exports write the last
export const FILE_NAME = 'voxtral_onnx.json'
export const TOKENIZER = 'tekken.json'
export const PIECE_SIZE = 16 << 20 // bytes of a piece, which has a hash of its own
export const MOST_BYTES = { manifest: 1 << 20, certificate: 4 << 20, tokenizer: 64 << 20 } // as in limits.py
export const BYTES = { float32: 4, float16: 2, int32: 4, int64: 8 } // of one number

/**
 * Return whether a graph's input is a key-value cache.
 * @param {string} name
 */
export const isCache = (name) => name.startsWith('past_key_values.')

/**
 * Return whether a graph's input is an output of the call before: a key-value cache, or the state of a convolution.
 * @param {string} name
 */
export const isState = (name) => isCache(name) || name.endsWith('_state')

/**
 * Return the name of the output that is the next call's input `past`.
 * @param {string} past
 */
export const presentOf = (past) => (isCache(past) ? past.replace('past_key_values', 'present') : `present_${past}`)

/**
 * @typedef {{name: string, dtype: string, shape: (number | string)[]}} TensorSpec
 * @typedef {{path: string, inputs: TensorSpec[], outputs: TensorSpec[], data: string[]}} GraphSpec
 * @typedef {{activation_dtype: string, encoder: GraphSpec, decoder: GraphSpec}} Precision
 * @typedef {{size: number, sha256: string, pieces: string[]}} FileSpec
 * @typedef {{bos: number, eos: number, streaming_pad: number, streaming_word: number, first_text: number}} Tokens
 * @typedef {object} Streaming the rule by which audio becomes positions of the decoder
 * @property {number} left_pad_tokens silence before the audio
 * @property {number} right_pad_tokens silence after it, besides the delay and the rest of the last token
 * @property {number} look_back_samples samples before a mel frame at which its window starts
 * @property {number} look_ahead_samples samples that a token needs beyond its own
 * @property {number} max_chunk_tokens most tokens of an encoder call; more are no faster
 * @property {number} default_delay_tokens
 * @property {number} max_delay_tokens
 * @property {number[]} trained_delay_tokens
 * @typedef {object} CacheValues
 * @property {number} num_layers
 * @property {number} num_key_value_heads
 * @property {number} head_dim
 * @property {number} rope_theta
 * @property {number} rows_per_token
 * @property {number} window keys that a query sees, its own included
 * @property {number} keep rows that are shifted to the front when the buffer is full
 * @property {number} capacity rows of the buffer
 * @typedef {{sample_rate: number, hop_length: number, frames_per_token: number}} AudioConfig
 * @typedef {{hidden_size: number, sliding_window: number}} StackConfig
 */

const SIZE = integer(1, 1 << 24) // of one axis of a tensor
const WINDOW = integer(1, 1 << 19) // keys; its cache has a quarter more rows
const SAMPLES = integer(0, 1 << 16)
const PADDING = integer(0, 1024) // tokens of silence, which add to the time of every recording
const LAYERS = integer(1, 1024)
const POSITIVE = number(Number.MIN_VALUE, 1e18)
const ROLE = text(1, 64, /^[A-Za-z0-9_.-]+$/, 'letters, digits, _, . and -')
const AXIS = /** @type {import('./fields.js').Kind} */ (value, at) => (typeof value === 'string' ? NAME : COUNT)(value, at)
const TENSOR = record({ name: NAME, dtype: ROLE, shape: list(AXIS, 8) })
const GRAPH = record({
  path: RELATIVE_NAME,
  inputs: list(TENSOR),
  outputs: list(TENSOR),
  data: list(RELATIVE_NAME),
  parameters: COUNT,
  operators: mapOf(NAME, COUNT),
})
const RULE = record({ tensors: NAME, bits: oneOf(4, 8), block_size: oneOf(16, 32, 64, 128), method: NAME })
const PRECISION = record({
  activation_dtype: oneOf('float16', 'float32'),
  recipe: record({ name: NAME, accuracy_level: oneOf(0, 1, 2, 3, 4), rules: list(RULE) }),
  encoder: GRAPH,
  decoder: GRAPH,
  families: optional(mapOf(ROLE, list(GRAPH)), {}),
  encoder_batch: optional(orNull(GRAPH), null),
  encoder_paged: optional(orNull(GRAPH), null),
})
const CACHE = record(
  {
    num_layers: LAYERS,
    num_key_value_heads: SIZE,
    head_dim: SIZE,
    rope_theta: POSITIVE,
    rows_per_token: SIZE,
    window: SIZE,
    keep: COUNT,
    capacity: integer(1, 1 << 20),
  },
  shiftable,
)
const STACK = {
  hidden_size: SIZE,
  intermediate_size: SIZE,
  num_hidden_layers: LAYERS,
  num_attention_heads: SIZE,
  num_key_value_heads: SIZE,
  head_dim: SIZE,
  sliding_window: WINDOW,
  rope_theta: POSITIVE,
  rms_norm_eps: POSITIVE,
}
const CONFIG = record(
  {
    audio: record({
      sample_rate: integer(1000, 768_000),
      n_fft: SIZE,
      hop_length: SIZE,
      n_mels: SIZE,
      global_log_mel_max: number(-100, 100),
      frames_per_token: SIZE,
    }),
    encoder: record({ ...STACK, downsample_factor: SIZE }, sharesHeads),
    decoder: record({ ...STACK, vocab_size: SIZE, time_embedding_rank: SIZE }, sharesHeads),
  },
  ({ audio, encoder }) => (audio.frames_per_token === 2 * encoder.downsample_factor ? undefined : 'two mel frames a row'),
)
const MANIFEST = record(
  {
    format: oneOf(...FORMATS),
    generator: NAME,
    fingerprint: SHA256,
    scope: orNull(text(0, 1000)),
    license: optional(orNull(NAME), null),
    config: CONFIG,
    tokens: record({ bos: TOKEN_ID, eos: TOKEN_ID, streaming_pad: TOKEN_ID, streaming_word: TOKEN_ID, first_text: TOKEN_ID }),
    streaming: record({
      left_pad_tokens: PADDING,
      right_pad_tokens: PADDING,
      look_back_samples: SAMPLES,
      look_ahead_samples: SAMPLES,
      max_chunk_tokens: integer(1, 1024),
      default_delay_tokens: DELAY,
      max_delay_tokens: DELAY,
      trained_delay_tokens: list(DELAY),
    }),
    caches: mapOf(oneOf('encoder', 'decoder'), CACHE),
    mel: GRAPH,
    precisions: mapOf(ROLE, PRECISION),
    files: mapOf(
      RELATIVE_NAME,
      record({ size: COUNT, sha256: SHA256, pieces: list(SHA256) }, ({ size, pieces }) => {
        const count = size > PIECE_SIZE ? Math.ceil(size / PIECE_SIZE) : 0
        return pieces.length === count ? undefined : `${count} hashes of pieces`
      }),
    ),
  },
  ({ caches, tokens, config, streaming }) => {
    if (Object.keys(caches).length < 2) return 'caches of encoder and decoder'
    const { vocab_size: size } = config.decoder
    if (!Object.values(tokens).every((id) => id < size)) return `tokens below ${size}`
    const half = Math.floor(config.audio.n_fft / 2)
    const ahead = half - config.audio.hop_length
    const { look_back_samples: back, look_ahead_samples: forward } = streaming
    return back === half && forward === ahead ? undefined : `to look ${half} samples back and ${ahead} ahead`
  },
)

/**
 * Return what is expected of a cache whose rows cannot be shifted by whole tokens; undefined where they can.
 * @param {CacheValues} cache
 */
function shiftable({ keep, capacity, rows_per_token: step }) {
  return keep < capacity && keep % step === 0 && capacity % step === 0
    ? undefined
    : `a capacity of more than ${keep} rows, both in steps of ${step}`
}

/**
 * Return what is expected of layers whose heads do not fit grouped-query attention; undefined where they do.
 * @param {{num_attention_heads: number, num_key_value_heads: number, head_dim: number}} stack
 */
function sharesHeads({ num_attention_heads: heads, num_key_value_heads: shared, head_dim: width }) {
  return heads % shared === 0 && width % 2 === 0 ? undefined : 'an even head_dim, and key-value heads that divide the query heads'
}

/** The size of one key-value cache and the rule by which its rows are shifted: `CacheSpec` in manifest.py. */
export class CacheSpec {
  /** @param {CacheValues} values */
  constructor(values) {
    this.head_dim = values.head_dim
    this.rope_theta = values.rope_theta
    this.rows_per_token = values.rows_per_token
    this.window = values.window
    this.keep = values.keep
    this.capacity = values.capacity
    const expected = shiftable(values)
    if (expected) throw new ArtifactError(`cache: expected ${expected}; export again`)
  }

  /**
   * Return the buffer's row of an absolute position.
   * @param {number} position
   */
  row(position) {
    if (position < this.capacity) return position
    return this.keep + ((position - this.keep) % (this.capacity - this.keep))
  }

  /**
   * Return how many rows a call that starts at `position` may write before the next shift.
   * @param {number} position
   */
  slotsLeft(position) {
    return this.capacity - this.row(position)
  }
}

/** The contents of a manifest: all that a host has to know of an artifact. */
export class Manifest {
  /**
   * Parse and validate the manifest's text.
   * @param {string} text
   * @throws {ArtifactError} it is not valid, or of an unknown format
   */
  constructor(text) {
    let values
    try {
      values = JSON.parse(text)
    } catch (error) {
      throw new ArtifactError(`${FILE_NAME}: cannot be read (${/** @type {Error} */ (error).message}); export again`)
    }

    // Refuse other formats first: they have other fields
    const format = values?.format
    if (!FORMATS.includes(format)) {
      const isNewer = typeof format === 'number' && format > Math.max(...FORMATS)
      const advice = isNewer ? 'reload the page of a newer voxtral-onnx' : 'export again'
      const found = JSON.stringify(format)?.slice(0, 40)
      throw new ArtifactError(`${FILE_NAME}: expected format ${FORMATS.join(' or ')}, got ${found}; ${advice}`)
    }

    // Validate all fields
    try {
      values = MANIFEST(values, '')
    } catch (error) {
      if (!(error instanceof FieldError)) throw error
      throw new ArtifactError(`${FILE_NAME}: not a valid manifest (${error.message}); export again`)
    }

    // Keep what the page uses
    this.text = text
    /** @type {string | null} a sentence about the speech that the model is limited to, for models that are */
    this.scope = values.scope
    /** @type {string} hash of the checkpoint's weights */
    this.fingerprint = values.fingerprint
    /** @type {{audio: AudioConfig, encoder: StackConfig, decoder: StackConfig}} */
    this.config = values.config
    /** @type {Tokens} */
    this.tokens = values.tokens
    /** @type {Streaming} */
    this.streaming = values.streaming
    /** @type {{encoder: CacheValues, decoder: CacheValues}} */
    this.caches = values.caches
    /** @type {GraphSpec} */
    this.mel = values.mel
    /** @type {Record<string, Precision>} */
    this.precisions = values.precisions
    /** @type {Record<string, FileSpec>} */
    this.files = values.files
  }

  /** Return the samples of one token. */
  get samplesPerToken() {
    return this.config.audio.hop_length * this.config.audio.frames_per_token
  }

  /** Return the milliseconds of one token. */
  get msPerToken() {
    return (1000 * this.samplesPerToken) / this.config.audio.sample_rate
  }

  /**
   * Return the files that one precision needs.
   * @param {string} precision
   * @returns {Map<string, FileSpec>} by path below the artifact
   * @throws {ArtifactError} the manifest lists no size and hash of a graph's file
   */
  filesOf(precision) {
    const { encoder, decoder } = this.precisions[precision]
    const names = [TOKENIZER, ...[this.mel, encoder, decoder].flatMap((graph) => [graph.path, ...graph.data])]
    return new Map(
      names.map((name) => {
        if (!this.files[name]) {
          throw new ArtifactError(`${FILE_NAME}: gives no size and hash of ${name}; export again`)
        }
        return [name, this.files[name]]
      }),
    )
  }

  /**
   * Convert a delay to tokens.
   * @param {number | undefined} milliseconds undefined for the model's own delay
   * @throws {UsageError} it is not a multiple of a token's length, or out of the model's range
   */
  delayTokens(milliseconds) {
    if (milliseconds === undefined) return this.streaming.default_delay_tokens
    const tokens = milliseconds / this.msPerToken
    const longest = this.streaming.max_delay_tokens
    if (!Number.isInteger(tokens) || tokens < 1 || tokens > longest) {
      throw new UsageError(
        `delay: expected a multiple of ${this.msPerToken} ms from ${this.msPerToken} to ${longest * this.msPerToken}, ` +
          `got ${milliseconds} ms`,
      )
    }
    return tokens
  }

  /**
   * Return the decoder's cache for attention over `context` positions, at most its window.
   * @param {number} context
   * @throws {UsageError} there are fewer than 64 positions
   */
  decoderCache(context) {
    if (!(context >= 64)) throw new UsageError(`context: expected at least 64 positions of 80 ms, got ${context}`)
    const values = this.caches.decoder
    if (context >= values.window) return new CacheSpec(values)
    const keep = context - 1
    return new CacheSpec({ ...values, keep, capacity: keep + Math.floor(context / 4) })
  }
}
