/**
 * A script that transcribes a WAV with transformers.js as it would live speech: a first chunk of samples, then one for every
 * token. The artifact must be exported with `--family native,transformers_js`.
 *
 *     npm install @huggingface/transformers
 *     node transformers_js.mjs ARTIFACT clip.wav [q4f16 | q4 | q8 | fp16 | fp32]
 */

import * as transformers from '@huggingface/transformers'

const NEEDED = '4.3' // version of transformers.js

/**
 * Load an artifact's processor and model; throw where transformers.js is too old or the artifact lacks its graphs.
 * @param {string} folder of the artifact
 * @param {any} [dtype] one of its precisions; by default the first one with graphs for transformers.js
 */
export async function load(folder, dtype) {
  const { env, VoxtralRealtimeForConditionalGeneration: Model, VoxtralRealtimeProcessor: Processor } = transformers
  if (!Model || env.version.localeCompare(NEEDED, 'en', { numeric: true }) < 0) {
    throw new Error(`transformers.js ${env.version}: needed is ${NEEDED} or newer; run: npm install @huggingface/transformers@latest`)
  }
  const { readFileSync } = await import('node:fs')
  const path = (await import('node:path')).resolve(folder) // transformers.js takes a bare name for a repository of the hub
  const { precisions } = JSON.parse(readFileSync(`${path}/voxtral_onnx.json`, 'utf8'))
  const has = (/** @type {string} */ name) => Boolean(precisions[name]?.families.transformers_js)
  dtype ??= Object.keys(precisions).find(has) ?? Object.keys(precisions)[0]
  if (!has(dtype)) {
    const add = `voxtral-onnx export SOURCE -o ${folder} --precision ${dtype} --family native,transformers_js`
    throw new Error(`${folder}: no graphs for transformers.js in ${dtype}; run: ${add}`)
  }
  return { processor: await Processor.from_pretrained(path), model: await Model.from_pretrained(path, { dtype }) }
}

/**
 * Return the token ids that the model generates for samples, without its prompt.
 * @param {{processor: any, model: any}} loaded
 * @param {Float32Array} samples mono, at the model's rate
 * @param {object} [options] options of `generate`, such as a streamer that gets the tokens one by one
 */
export async function transcribe({ processor, model }, samples, options) {
  // Pad with silence, so that the delayed tokens come too
  const { hop_length, n_fft } = processor.feature_extractor.config
  const perToken = processor.raw_audio_length_per_tok
  const firstTokens = processor.num_mel_frames_first_audio_chunk / processor.audio_length_per_tok
  const numTokens = Math.ceil(samples.length / perToken) + processor.num_right_pad_tokens
  const audio = new Float32Array(numTokens * perToken + n_fft) // silence behind the speech
  audio.set(samples)

  // A first chunk, then one for every token
  const chunk = (/** @type {number} */ start, /** @type {number} */ size, /** @type {boolean} */ isFirst) =>
    processor(audio.subarray(start, start + size), { is_streaming: true, is_first_audio_chunk: isFirst })
  const first = await chunk(0, processor.num_samples_first_audio_chunk, true)
  async function* features() {
    yield first.input_features
    for (let token = firstTokens; token < numTokens; token++) {
      const start = token * processor.audio_length_per_tok * hop_length - n_fft / 2
      yield (await chunk(start, processor.num_samples_per_audio_chunk, false)).input_features
    }
  }

  // Generate
  const max_new_tokens = numTokens - firstTokens + 1 // without a limit one more token would follow the last chunk
  const ids = await model.generate({ input_ids: first.input_ids, input_features: features(), max_new_tokens, ...options })
  return ids.tolist()[0].slice(first.input_ids.dims[1]).map(Number)
}

/**
 * Read a 16-bit mono WAV as samples of full scale 1.
 * @param {string} path
 * @param {number} rate expected sample rate in Hz
 */
export async function readWav(path, rate) {
  const file = (await import('node:fs')).readFileSync(path)
  const [format, channels, found, bits] = [file.readUInt16LE(20), file.readUInt16LE(22), file.readUInt32LE(24), file.readUInt16LE(34)]
  if (format !== 1 || channels !== 1 || found !== rate || bits !== 16) {
    throw new Error(`${path}: expected mono WAV of 16 bits at ${rate} Hz; run: ffmpeg -i ${path} -ac 1 -ar ${rate} -c:a pcm_s16le out.wav`)
  }
  const start = file.indexOf('data', 36) + 8
  const numSamples = Math.min(file.readUInt32LE(start - 4), file.length - start) >> 1
  return Float32Array.from({ length: numSamples }, (_, i) => file.readInt16LE(start + 2 * i) / 32768)
}

if (/[\\/]transformers_js\.mjs$/.test(globalThis.process?.argv[1] ?? '')) {
  const [folder, wav, dtype] = process.argv.slice(2)
  if (!wav) throw new Error('usage: node transformers_js.mjs ARTIFACT clip.wav [q4f16 | q4 | q8 | fp16 | fp32]')
  const loaded = await load(folder, dtype)
  const { processor } = loaded
  const callback_function = (/** @type {string} */ text) => process.stdout.write(text)
  const streamer = new transformers.TextStreamer(processor.tokenizer, { skip_prompt: true, skip_special_tokens: true, callback_function })
  await transcribe(loaded, await readWav(wav, processor.feature_extractor.config.sampling_rate), { streamer })
}
