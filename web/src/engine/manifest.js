/**
 * `voxtral_onnx.json`: the contract between export and every host (manifest.py). Names, shapes, rules and hashes are read
 * from it and repeated nowhere.
 */

import { ArtifactError, UsageError } from '../shared/errors.js'

export const FORMATS = [1, 2] // that are read; an export writes the last
export const FILE_NAME = 'voxtral_onnx.json'
export const TOKENIZER = 'tekken.json'
export const PIECE_SIZE = 16 << 20 // bytes hashed apart
export const BYTES = { float32: 4, float16: 2, int32: 4, int64: 8 } // of a number

/**
 * Whether a graph's input is a cache.
 * @param {string} name
 */
export const isCache = (name) => name.startsWith('past_key_values.')

/**
 * Whether a graph's input is what a call before gave back: a cache, or the state of a convolution.
 * @param {string} name
 */
export const isState = (name) => isCache(name) || name.endsWith('_state')

/**
 * The output that is the next call's input `past`.
 * @param {string} past
 */
export const presentOf = (past) => (isCache(past) ? past.replace('past_key_values', 'present') : `present_${past}`)

/**
 * @typedef {{name: string, dtype: string, shape: (number | string)[]}} TensorSpec
 * @typedef {{path: string, inputs: TensorSpec[], outputs: TensorSpec[], data: string[]}} GraphSpec
 * @typedef {{activation_dtype: string, encoder: GraphSpec, decoder: GraphSpec}} Precision
 * @typedef {{size: number, sha256: string, pieces: string[]}} FileSpec
 * @typedef {{bos: number, eos: number, streaming_pad: number, streaming_word: number, first_text: number}} Tokens
 * @typedef {object} Streaming how audio becomes positions
 * @property {number} left_pad_tokens silence before the audio
 * @property {number} right_pad_tokens silence after it, besides the delay and what completes the last token
 * @property {number} look_back_samples a mel frame's window starts this far before the frame
 * @property {number} look_ahead_samples samples a token needs beyond its own
 * @property {number} max_chunk_tokens tokens worth encoding in one call
 * @property {number} default_delay_tokens
 * @property {number} max_delay_tokens
 * @property {number[]} trained_delay_tokens
 * @typedef {object} CacheValues
 * @property {number} num_layers
 * @property {number} num_key_value_heads
 * @property {number} head_dim
 * @property {number} rope_theta
 * @property {number} rows_per_token
 * @property {number} window keys a query sees, itself included
 * @property {number} keep rows that are shifted
 * @property {number} capacity rows of the buffer
 * @typedef {{sample_rate: number, hop_length: number, frames_per_token: number}} AudioConfig
 * @typedef {{hidden_size: number, sliding_window: number}} StackConfig
 */

/** The fixed buffer of one key-value cache, and when its rows are shifted: see `CacheSpec` in manifest.py. */
export class CacheSpec {
  /** @param {CacheValues} values */
  constructor(values) {
    this.head_dim = values.head_dim
    this.rope_theta = values.rope_theta
    this.rows_per_token = values.rows_per_token
    this.window = values.window
    this.keep = values.keep
    this.capacity = values.capacity
    if (this.keep >= this.capacity || this.keep % this.rows_per_token || this.capacity % this.rows_per_token) {
      throw new ArtifactError(
        `cache of ${this.capacity} rows cannot keep ${this.keep} in steps of ${this.rows_per_token}; export again`,
      )
    }
  }

  /**
   * The buffer row of an absolute position.
   * @param {number} position
   */
  row(position) {
    if (position < this.capacity) return position
    return this.keep + ((position - this.keep) % (this.capacity - this.keep))
  }

  /**
   * How many rows a call that starts at `position` may write before the next shift.
   * @param {number} position
   */
  slotsLeft(position) {
    return this.capacity - this.row(position)
  }
}

/** Everything a host needs to know. */
export class Manifest {
  /**
   * Parse the manifest's text.
   * @param {string} text
   * @throws {ArtifactError} another format, or one that does not parse
   */
  constructor(text) {
    let values
    try {
      values = JSON.parse(text)
    } catch (error) {
      throw new ArtifactError(`${FILE_NAME}: cannot be read (${/** @type {Error} */ (error).message}); export again`)
    }
    if (!FORMATS.includes(values?.format)) {
      const advice = values?.format > Math.max(...FORMATS) ? 'reload the page of a newer voxtral-onnx' : 'export again'
      throw new ArtifactError(`${FILE_NAME}: expected format ${FORMATS.join(' or ')}, got ${values?.format}; ${advice}`)
    }
    for (const name of ['config', 'tokens', 'streaming', 'caches', 'mel', 'precisions', 'files']) {
      if (typeof values[name] !== 'object' || values[name] === null) {
        throw new ArtifactError(`${FILE_NAME}: not a valid manifest (no ${name}); export again`)
      }
    }
    this.text = text
    /** @type {string | null} what the model is for, where that must be said */
    this.scope = values.scope
    /** @type {string} of the checkpoint's weights */
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

  /** Samples of one token. */
  get samplesPerToken() {
    return this.config.audio.hop_length * this.config.audio.frames_per_token
  }

  /** Milliseconds of one token. */
  get msPerToken() {
    return (1000 * this.samplesPerToken) / this.config.audio.sample_rate
  }

  /**
   * What it takes to run one precision.
   * @param {string} precision
   * @returns {Map<string, FileSpec>} by path below the artifact
   * @throws {ArtifactError} the manifest says nothing of a file that a graph has
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
   * Delay in tokens.
   * @param {number | undefined} milliseconds undefined for the model's own
   * @throws {UsageError} not a multiple of a token's length, or out of the model's range
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
   * The decoder's buffer for `context` positions, at most its window.
   * @param {number} context
   * @throws {UsageError} too few positions
   */
  decoderCache(context) {
    if (!(context >= 64)) throw new UsageError(`context: expected at least 64 positions of 80 ms, got ${context}`)
    const values = this.caches.decoder
    if (context >= values.window) return new CacheSpec(values)
    const keep = context - 1
    return new CacheSpec({ ...values, keep, capacity: keep + Math.floor(context / 4) })
  }
}
