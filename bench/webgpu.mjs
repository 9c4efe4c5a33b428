/**
 * A benchmark of the page's engine on a real GPU, in Node.js on Dawn: times of loading, encoder, decoder and live tokens, with
 * graph capture and without.
 *
 *     node bench/webgpu.mjs ARTIFACT [--modules FOLDER] [--precision q4f16] [--context 8192] [--out FILE]
 *
 * FOLDER holds the npm package `webgpu` (Dawn's bindings); `make web` writes web/vendor. The artifact is an export of
 * bench/twin.py's checkpoint, or skeleton.py's. Writes results/webgpu.json.
 */

import { execFileSync } from 'node:child_process'
import { openAsBlob } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    modules: { type: 'string', default: 'node_modules' },
    precision: { type: 'string', default: 'q4f16' },
    context: { type: 'string', default: '8192' },
    calls: { type: 'string', default: '60' },
    out: { type: 'string', default: new URL('results/webgpu.json', import.meta.url).pathname },
  },
})
const artifact = positionals[0]
const calls = Number(options.calls)
const FLAGS = ['backend=vulkan', 'enable-dawn-features=vulkan_enable_f16_on_nvidia,allow_unsafe_apis']

const dawn = await import(pathToFileURL(path.resolve(options.modules, 'webgpu/index.js')).href)
Object.assign(globalThis, dawn.globals)
Object.defineProperty(globalThis, 'navigator', {
  value: { gpu: dawn.create(FLAGS), userAgent: 'node', hardwareConcurrency: 4 },
  configurable: true,
})
const { openDevice, tensorOf } = await import('../web/src/engine/device.js')
const { selectBackend } = await import('../web/src/engine/select-backend.js')
const { Manifest } = await import('../web/src/engine/manifest.js')
const { Transcriber } = await import('../web/src/engine/transcriber.js')

const round = (/** @type {number} */ value) => Math.round(1000 * value) / 1000
const memoryOfGpu = () => {
  const query = ['--query-gpu=memory.used', '--format=csv,noheader,nounits']
  return Number(execFileSync('nvidia-smi', query).toString().split('\n')[0])
}

/**
 * Time a call again and again, in milliseconds, after three calls that compile shaders.
 * @param {() => Promise<unknown>} call
 */
async function timed(call, count = calls) {
  for (let i = 0; i < 3; i++) await call()
  const times = []
  for (let i = 0; i < count; i++) {
    const began = performance.now()
    await call()
    times.push(performance.now() - began)
  }
  times.sort((a, b) => a - b)
  const at = (/** @type {number} */ share) => round(times[Math.min(times.length - 1, Math.floor(share * times.length))])
  return { calls: count, min: at(0), p50: at(0.5), p95: at(0.95), max: at(1) }
}

const manifest = new Manifest(await readFile(path.join(artifact, 'voxtral_onnx.json'), 'utf8'))
const backend = await selectBackend(manifest, { device: 'webgpu', precision: options.precision })
const device = await openDevice('webgpu')
const { streaming, msPerToken, samplesPerToken } = manifest
const noise = (/** @type {number} */ count) => Float32Array.from({ length: count }, () => 0.1 * (Math.random() - 0.5))
const samplesOf = (/** @type {number} */ tokens) =>
  noise(streaming.look_back_samples + tokens * samplesPerToken + streaming.look_ahead_samples)
const whole = async (/** @type {Promise<any>} */ call) => {
  await call
  await device.device.queue.onSubmittedWorkDone()
}

/**
 * Load the model and time its calls.
 * @param {boolean} captured whether calls are captured and replayed
 */
async function measure(captured) {
  // Load
  device.captures = captured
  const before = memoryOfGpu()
  const began = performance.now()
  const transcriber = await Transcriber.open({
    manifest,
    readFile: async (name) => openAsBlob(path.join(artifact, name)),
    precision: options.precision,
    device,
    context: Number(options.context),
  })
  if (device.captures !== captured) throw new Error(transcriber.notes.join())
  const times = /** @type {Record<string, any>} */ ({
    load_seconds: round((performance.now() - began) / 1000),
    ...(captured && { loaded_mb: memoryOfGpu() - before }), // a second model reuses the memory of the first
  })

  // Single calls, with an empty and a full window
  const { encoder, decoder } = transcriber
  const encoderCache = encoder.newCache()
  const decoderCache = decoder.newCache()
  const pad = manifest.tokens.streaming_pad
  const delay = streaming.default_delay_tokens
  const samples = samplesOf(1)
  for (const [window, encoderAt, decoderAt] of /** @type {[string, number, number][]} */ ([
    ['empty', 0, 40],
    ['full', encoderCache.spec.capacity, decoderCache.spec.capacity],
  ])) {
    const place = () => {
      encoderCache.position = encoderAt
      decoderCache.position = decoderAt
    }
    for (const tokens of captured ? [1] : [1, 4, 16]) {
      const chunk = samplesOf(tokens)
      times[`encoder, ${window} window, ${tokens} tokens`] = await timed(async () => {
        place()
        await whole(encoder.encode(encoderCache, chunk))
      })
    }
    const embeds = tensorOf(device.ort, encoder.dtype, noise(encoder.width), [1, 1, encoder.width])
    times[`decoder, ${window} window`] = await timed(async () => {
      place()
      await decoder.step(decoderCache, [pad], embeds, delay, 0)
    })
    times[`encoder and decoder, ${window} window`] = await timed(async () => {
      place()
      await decoder.step(decoderCache, [pad], await encoder.encode(encoderCache, samples), delay, 0)
    })
  }
  times['mel, 1 token'] = await timed(() =>
    encoder.mel.run({ audio: tensorOf(device.ort, 'float32', samples, [1, samples.length]) }),
  )

  // Shifts of the caches
  if (!captured) {
    for (const [name, cache] of Object.entries({ encoder: encoderCache, decoder: decoderCache })) {
      times[`${name}, move of the window`] = await timed(async () => {
        cache.binding.shiftRows(cache.spec.keep)
        await device.device.queue.onSubmittedWorkDone()
      }, 10)
    }
  }
  encoderCache.release()
  decoderCache.release()

  // Live tokens
  const stream = transcriber.stream()
  const start = performance.now()
  for await (const _ of stream.feed(noise(0)));
  times.start_ms = round(performance.now() - start)
  for await (const _ of stream.feed(noise(20 * samplesPerToken)));
  times['live, 1 token'] = await timed(async () => {
    for await (const _ of stream.feed(noise(samplesPerToken)));
  }, 250)
  if (captured) times.used_mb = memoryOfGpu() - before
  stream.release()
  await transcriber.close()
  console.log(JSON.stringify(times, null, 1))
  return times
}

const results = {
  measured: `random weights of the 4B model’s shapes; milliseconds of calls, MB; a token is ${msPerToken} ms of audio`,
  date: new Date().toISOString().slice(0, 10),
  adapter: backend.adapter,
  onnxruntime_web: device.ort.env.versions.web,
  node: process.version,
  machine: { cpu: os.cpus()[0].model, cores: os.cpus().length },
  precision: options.precision,
  context: Number(options.context),
  'recorded calls': await measure(true),
  'every call anew': await measure(false),
}
await writeFile(options.out, JSON.stringify(results, null, 1) + '\n')
process.exit(0)
