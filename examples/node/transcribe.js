/**
 * A script that transcribes a recording on onnxruntime-node. It follows docs/artifact.md and shares no code with the project.
 *
 *     npm install && node transcribe.js ARTIFACT AUDIO.wav [PRECISION]
 *
 * All that it knows of the model is in the artifact's manifest. The recording is 16-bit PCM, mono, at the model's rate.
 */

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import * as ort from 'onnxruntime-node'

const [NEEDED, FORMATS] = ['1.30', [1, 2]] // versions of onnxruntime, of the manifest
const BELOW = /^(?!.*\.\.(\/|$))[\w.-]+(\/[\w.-]+)*$/ // a name of a file below the folder; manifests may come from strangers
const ARRAYS = { float32: Float32Array, float16: Uint16Array, int64: BigInt64Array, int32: Int32Array }

/** Return a tensor of numbers; those of float16 are given as bits. */
const tensor = (dtype, values, dims) => new ort.Tensor(dtype, ARRAYS[dtype].from(values), dims)

/** Return the bits of the float16 nearest to a cosine or sine. */
function float16Bits(value) {
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(value) || Number.MIN_VALUE)))
  const steps = Math.round(Math.abs(value) * 2 ** (10 - exponent)) // the last place is 2^(exponent - 10)
  return (value < 0 ? 0x8000 : 0) | (((exponent + 14) << 10) + steps)
}

/** The state that a graph carries from call to call: each buffer is bound as its input and its output at once. */
class Cache {
  constructor({ inputs }, rules) {
    Object.assign(this, { rules, position: 0, past: {}, present: {} })
    this.dtype = inputs.find(({ name }) => name === 'cos').dtype
    for (const { name, dtype, shape } of inputs.filter(({ name }) => /^past_key_values|_state$/.test(name))) {
      const dims = shape.map((size) => ({ batch: 1, capacity: rules.capacity })[size] ?? size)
      this.past[name] = new ort.Tensor(dtype, new ARRAYS[dtype](dims.reduce((a, b) => a * b)), dims)
      this.present[name.replace('past_key_values', 'present').replace(/^conv/, 'present_conv')] = this.past[name]
    }
  }

  /** Return how many rows the next call may write before the buffers are full. */
  get slotsLeft() {
    const { capacity, keep } = this.rules
    return capacity - (this.position < capacity ? this.position : keep + ((this.position - keep) % (capacity - keep)))
  }

  /** Run a graph for the next rows and return one output. */
  async step(session, rows, feeds, output) {
    const { head_dim, rope_theta, capacity, keep } = this.rules
    const frequencies = Array.from({ length: head_dim / 2 }, (_, pair) => rope_theta ** ((-2 * pair) / head_dim))
    const angles = Array.from({ length: rows }, (_, row) => frequencies.map((each) => (this.position + row) * each)).flat()
    const rounded = this.dtype === 'float16' ? float16Bits : (value) => value
    const rotation = (f) => tensor(this.dtype, angles.map((angle) => rounded(f(angle))), [1, rows, head_dim / 2])
    const left = this.slotsLeft - rows
    const positions = {
      cos: rotation(Math.cos),
      sin: rotation(Math.sin),
      seqlens_k: tensor('int32', [capacity - left - 1], [1]), // the last of these rows
      total_sequence_length: tensor('int32', [capacity], []),
    }
    const results = await session.run({ ...feeds, ...positions, ...this.past }, { [output]: null, ...this.present })
    this.position += rows
    for (const { data, dims } of left === 0 ? Object.values(this.past).filter(({ dims }) => dims.length === 4) : []) {
      const size = capacity * head_dim // of a head, whose last rows shift to its front
      for (let at = 0; at < dims[1] * size; at += size) data.copyWithin(at, at + size - keep * head_dim, at + size)
    }
    return results[output]
  }
}

/** Load an artifact; `precision` is one of the manifest's, the first by default. */
export async function load(folder, precision) {
  process.env.ORT_DISABLE_TELEMETRY ??= '1' // without it onnxruntime reports usage to its maker
  const version = ort.env.versions.node ?? ort.env.versions.common
  if (version.localeCompare(NEEDED, 'en', { numeric: true }) < 0) {
    throw new Error(`onnxruntime-node ${version}: needed is ${NEEDED} or newer; run: npm install onnxruntime-node@latest`)
  }
  const read = async (name) => JSON.parse(await readFile(path.join(folder, name), 'utf8'))
  const [manifest, { vocab }] = await Promise.all([read('voxtral_onnx.json'), read('tekken.json')])
  if (!FORMATS.includes(manifest.format)) throw new Error(`${folder}: expected format ${FORMATS.join(' or ')}, got ${manifest.format}; export again`)
  const graphs = manifest.precisions[(precision ??= Object.keys(manifest.precisions)[0])]
  const add = `voxtral-onnx export SOURCE -o ${folder} --precision ${precision}`
  if (!graphs) throw new Error(`${folder}: has ${Object.keys(manifest.precisions)}, not ${precision}; add it: ${add}`)
  const open = ({ path: name }) => {
    if (!BELOW.test(name)) throw new Error(`${folder}: no file below it is named ${JSON.stringify(name)}`)
    return ort.InferenceSession.create(path.join(folder, name))
  }
  const [mel, encoder, decoder] = await Promise.all([manifest.mel, graphs.encoder, graphs.decoder].map(open))
  return { manifest, vocab, graphs, mel, encoder, decoder }
}

/** Yield the tokens `{ id, bytes }` of samples (Float32Array, full scale 1) as they are sampled. */
export async function* transcribe({ manifest, vocab, graphs, mel, encoder, decoder }, samples) {
  const { streaming: rules, tokens, caches, config } = manifest

  // Pad with silence, as the model was trained
  const [perToken, delay] = [config.audio.hop_length * config.audio.frames_per_token, rules.default_delay_tokens]
  const margin = rules.look_back_samples + rules.look_ahead_samples
  const positions = rules.left_pad_tokens + Math.ceil(samples.length / perToken) + delay + rules.right_pad_tokens
  const padded = new Float32Array(positions * perToken + margin)
  padded.set(samples, rules.look_back_samples + rules.left_pad_tokens * perToken)

  // Encode a chunk, then decode its positions one by one
  const [encoderCache, decoderCache] = [new Cache(graphs.encoder, caches.encoder), new Cache(graphs.decoder, caches.decoder)]
  let next = tokens.bos
  for (let at = 0, chunk; at < positions - 1; at += chunk) {
    chunk = Math.min(positions - 1 - at, rules.max_chunk_tokens, encoderCache.slotsLeft / caches.encoder.rows_per_token)
    const audio = padded.slice(at * perToken, (at + chunk) * perToken + margin)
    const { input_features } = await mel.run({ audio: new ort.Tensor('float32', audio, [1, audio.length]) })
    const embeds = await encoderCache.step(encoder, chunk * caches.encoder.rows_per_token, { input_features }, 'audio_embeds')
    const width = embeds.dims[2]
    for (let row = 0; row < chunk; row++) {
      const feeds = {
        input_ids: tensor('int64', [BigInt(next)], [1, 1]),
        audio_embeds: tensor(embeds.type, embeds.data.subarray(row * width, (row + 1) * width), [1, 1, width]),
        num_delay_tokens: tensor('int64', [BigInt(delay)], [1]),
        blank_penalty: tensor('float32', [0], [1, 1]),
      }
      const sampled = await decoderCache.step(decoder, 1, feeds, 'next_ids')
      const isPrompt = decoderCache.position <= rules.left_pad_tokens + delay
      next = isPrompt ? tokens.streaming_pad : Number(sampled.data[0])
      if (isPrompt) continue
      const rank = next - tokens.first_text
      yield { id: next, bytes: Buffer.from(rank < 0 ? '' : vocab[rank].token_bytes, 'base64') }
      if (next === tokens.eos) return
    }
  }
}

/** Read the samples of a 16-bit mono WAV. */
export async function readWav(file, { sample_rate }) {
  const bytes = await readFile(file)
  const isMono = bytes.readUInt16LE(20) === 1 && bytes.readUInt16LE(22) === 1 && bytes.readUInt16LE(34) === 16 // PCM
  const start = bytes.indexOf('data', 36) + 8
  if (start < 44 || !isMono || bytes.readUInt32LE(24) !== sample_rate) {
    throw new Error(`${file}: expected 16-bit mono; run: ffmpeg -i ${file} -ac 1 -ar ${sample_rate} -c:a pcm_s16le out.wav`)
  }
  const length = Math.min(bytes.readUInt32LE(start - 4), bytes.length - start) >> 1
  return Float32Array.from({ length }, (_, i) => bytes.readInt16LE(start + 2 * i) / 32768)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder, file, precision] = process.argv.slice(2)
  const model = await load(folder, precision)
  const decoder = new TextDecoder() // streaming, because a character may span several tokens
  let said = ''
  for await (const { bytes } of transcribe(model, await readWav(file, model.manifest.config.audio))) {
    const piece = decoder.decode(bytes, { stream: true })
    process.stdout.write(said ? piece : piece.trimStart())
    said += piece
  }
  process.stdout.write(`${decoder.decode()}\n`)
}
