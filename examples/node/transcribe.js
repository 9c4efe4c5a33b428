/**
 * Words of a recording, with an exported artifact on onnxruntime-node; written by docs/artifact.md.
 *
 *     npm install && node transcribe.js ARTIFACT AUDIO.wav
 *
 * Every number comes from the artifact's manifest. The recording is 16-bit PCM, mono, at the model's rate.
 */

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import * as ort from 'onnxruntime-node'

const ARRAYS = { float32: Float32Array, float16: Uint16Array, int64: BigInt64Array, int32: Int32Array }

const tensor = (dtype, values, dims) => new ort.Tensor(dtype, ARRAYS[dtype].from(values), dims)

/** The bits of the float16 nearest to a cosine or sine. */
function float16Bits(value) {
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(value) || Number.MIN_VALUE)))
  const steps = Math.round(Math.abs(value) * 2 ** (10 - exponent)) // the last place is 2^(exponent - 10)
  return (value < 0 ? 0x8000 : 0) | (((exponent + 14) << 10) + steps)
}

/** What a graph carries from call to call, bound as its input and its output at once. */
class Cache {
  constructor(graph, rules) {
    Object.assign(this, { rules, position: 0, past: {}, present: {} })
    this.dtype = graph.inputs.find(({ name }) => name === 'cos').dtype
    for (const { name, dtype, shape } of graph.inputs) {
      const isKeys = name.startsWith('past_key_values.')
      if (!isKeys && !name.endsWith('_state')) continue
      const dims = shape.map((size) => ({ batch: 1, capacity: rules.capacity })[size] ?? size)
      const buffer = new ort.Tensor(dtype, new ARRAYS[dtype](dims.reduce((a, b) => a * b)), dims)
      this.past[name] = buffer
      this.present[isKeys ? name.replace('past_key_values', 'present') : `present_${name}`] = buffer
    }
  }

  /** The buffer's row of the next position. */
  get row() {
    const { capacity, keep } = this.rules
    return this.position < capacity ? this.position : keep + ((this.position - keep) % (capacity - keep))
  }

  /** Rows that the next call may write. */
  get room() {
    return this.rules.capacity - this.row
  }

  /** Run a graph for the next rows; one output comes back. */
  async step(session, rows, feeds, output) {
    const { head_dim, rope_theta, capacity, keep } = this.rules
    const angles = Array.from({ length: (rows * head_dim) / 2 }, (_, i) => {
      const [row, pair] = [Math.floor((2 * i) / head_dim), i % (head_dim / 2)]
      return (this.position + row) * rope_theta ** ((-2 * pair) / head_dim)
    })
    const rounded = this.dtype === 'float16' ? float16Bits : (value) => value
    const rotation = (f) => tensor(this.dtype, angles.map((angle) => rounded(f(angle))), [1, rows, head_dim / 2])
    const placed = {
      cos: rotation(Math.cos),
      sin: rotation(Math.sin),
      seqlens_k: tensor('int32', [this.row + rows - 1], [1]),
      total_sequence_length: tensor('int32', [capacity], []),
    }
    const isFull = this.room === rows
    const results = await session.run({ ...feeds, ...placed, ...this.past }, { [output]: null, ...this.present })
    this.position += rows
    for (const { data, dims } of isFull ? Object.values(this.past).filter(({ dims }) => dims.length === 4) : []) {
      const size = capacity * head_dim // of a head
      for (let head = 0; head < dims[1]; head++) {
        data.copyWithin(head * size, (head + 1) * size - keep * head_dim, (head + 1) * size)
      }
    }
    return results[output]
  }
}

/** Load an artifact; `precision` is one of the manifest's. */
export async function load(folder, precision) {
  const [manifest, { vocab }] = await Promise.all(
    ['voxtral_onnx.json', 'tekken.json'].map(async (name) => JSON.parse(await readFile(path.join(folder, name), 'utf8'))),
  )
  const graphs = manifest.precisions[precision ?? Object.keys(manifest.precisions)[0]]
  const open = (graph) => ort.InferenceSession.create(path.join(folder, graph.path))
  const [mel, encoder, decoder] = await Promise.all([manifest.mel, graphs.encoder, graphs.decoder].map(open))
  return { manifest, vocab, graphs, mel, encoder, decoder }
}

/** Tokens of samples (Float32Array, full scale 1), as they are decided: `{ id, bytes }`. */
export async function* transcribe({ manifest, vocab, graphs, mel, encoder, decoder }, samples) {
  const { streaming: rules, tokens, caches, config } = manifest
  const [perToken, delay] = [config.audio.hop_length * config.audio.frames_per_token, rules.default_delay_tokens]
  const margin = rules.look_back_samples + rules.look_ahead_samples
  const positions = rules.left_pad_tokens + Math.ceil(samples.length / perToken) + delay + rules.right_pad_tokens
  const padded = new Float32Array(positions * perToken + margin)
  padded.set(samples, rules.look_back_samples + rules.left_pad_tokens * perToken)
  const promptLength = 1 + rules.left_pad_tokens + delay
  const [heard, written] = [new Cache(graphs.encoder, caches.encoder), new Cache(graphs.decoder, caches.decoder)]
  let next = tokens.bos
  for (let at = 0, chunk; at < positions - 1; at += chunk) {
    chunk = Math.min(positions - 1 - at, rules.max_chunk_tokens, heard.room / caches.encoder.rows_per_token)
    const audio = padded.slice(at * perToken, (at + chunk) * perToken + margin)
    const { input_features } = await mel.run({ audio: new ort.Tensor('float32', audio, [1, audio.length]) })
    const frames = chunk * caches.encoder.rows_per_token
    const { data, dims, type } = await heard.step(encoder, frames, { input_features }, 'audio_embeds')
    for (let from = 0, rows; from < chunk; from += rows) {
      const asked = promptLength - written.position // more than 0 inside the prompt, whose positions run together
      rows = asked > 0 ? Math.min(asked, chunk - from, written.room) : 1
      const ids = Array.from({ length: rows }, (_, row) => BigInt(row ? tokens.streaming_pad : next))
      const feeds = {
        input_ids: tensor('int64', ids, [1, rows]),
        audio_embeds: tensor(type, data.subarray(from * dims[2], (from + rows) * dims[2]), [1, rows, dims[2]]),
        num_delay_tokens: tensor('int64', [BigInt(delay)], [1]),
        blank_penalty: tensor('float32', new Array(rows).fill(0), [1, rows]),
      }
      const choices = await written.step(decoder, rows, feeds, 'next_ids')
      next = asked > rows ? tokens.streaming_pad : Number(choices.data[rows - 1])
      if (asked > rows) continue
      const rank = next - tokens.first_text
      yield { id: next, bytes: Buffer.from(rank < 0 ? '' : vocab[rank].token_bytes, 'base64') }
      if (next === tokens.eos) return
    }
  }
}

/** Samples of a WAV file. */
export async function readWav(file, { sample_rate }) {
  const bytes = await readFile(file)
  const chunks = {}
  for (let at = 12; at + 8 <= bytes.length; at += 8 + bytes.readUInt32LE(at + 4) + (bytes.readUInt32LE(at + 4) % 2)) {
    chunks[bytes.toString('latin1', at, at + 4)] = bytes.subarray(at + 8, at + 8 + bytes.readUInt32LE(at + 4))
  }
  const format = chunks['fmt ']
  const [kind, channels, rate, bits] = [format.readUInt16LE(0), format.readUInt16LE(2), format.readUInt32LE(4), format.readUInt16LE(14)]
  if (kind !== 1 || channels !== 1 || rate !== sample_rate || bits !== 16) {
    throw new Error(`${file}: expected 16-bit PCM, mono, ${sample_rate} Hz; got ${bits} bits, ${channels} channels, ${rate} Hz`)
  }
  return Float32Array.from({ length: chunks.data.length >> 1 }, (_, i) => chunks.data.readInt16LE(2 * i) / 32768)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder, file] = process.argv.slice(2)
  const model = await load(folder)
  const decoder = new TextDecoder() // a character may span several tokens
  let said = ''
  for await (const { bytes } of transcribe(model, await readWav(file, model.manifest.config.audio))) {
    const piece = decoder.decode(bytes, { stream: true })
    process.stdout.write(said ? piece : piece.trimStart())
    said += piece
  }
  process.stdout.write(`${decoder.decode()}\n`)
}
