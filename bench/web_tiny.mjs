/**
 * A benchmark of the embedded model in Chromium: real-time factor, shifts of both caches, and tokens compared with Python's.
 *
 *     node bench/web_tiny.mjs ARTIFACT [--wasm-seconds 1200] [--webgpu-seconds 60] [--python .venv/bin/python] [--out FILE]
 *
 * WebAssembly and WebGPU transcribe the sample clip long-mixed, repeated to so many seconds. WebGPU runs on SwiftShader, which
 * emulates a GPU on the CPU and takes half an hour for a minute, so its speed says nothing about GPUs. A device with 0 seconds
 * is left out, and its earlier results stay. Needs `make web` and Chromium. Writes results/web_tiny.json.
 */

import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { NO_GPU, SWIFTSHADER, launch, removeProfiles } from '../web/test/browser.js'
import { SAMPLES, WEB } from '../web/test/samples.js'
import { TestServer } from '../web/test/server.js'

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'wasm-seconds': { type: 'string', default: '1200' },
    'webgpu-seconds': { type: 'string', default: '60' },
    python: { type: 'string', default: '.venv/bin/python' },
    out: { type: 'string', default: path.join(import.meta.dirname, 'results/web_tiny.json') },
  },
})
const artifact = path.resolve(positionals[0])
const BYTES_PER_SECOND = 32_000 // 16-bit mono at 16 kHz
const HEADER = 44
const PRECISION = 'q4' // the one that runs on both devices

/**
 * Return the clip as a WAV, repeated or cut to a length.
 * @param {number} seconds
 */
function recording(seconds) {
  const clip = readFileSync(path.join(SAMPLES, 'long-mixed.wav'))
  const sound = Buffer.alloc(seconds * BYTES_PER_SECOND)
  for (let at = 0; at < sound.length; at += clip.length - HEADER) clip.copy(sound, at, HEADER)
  const header = Buffer.from(clip.subarray(0, HEADER))
  header.writeUInt32LE(sound.length + HEADER - 8, 4)
  header.writeUInt32LE(sound.length, 40)
  return Buffer.concat([header, sound])
}

/**
 * Transcribe a WAV in Python and return its tokens.
 * @param {Buffer} wav
 * @returns {number[]}
 */
function pythonTokens(wav) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'voxtral-onnx-bench-'))
  try {
    const file = path.join(folder, 'recording.wav')
    writeFileSync(file, wav)
    const choice = ['--model', artifact, '--precision', PRECISION, '--device', 'cpu', '--output-format', 'json']
    const printed = execFileSync(options.python, ['-m', 'voxtral_onnx', 'transcribe', file, ...choice], { maxBuffer: 1e9 })
    return JSON.parse(printed.toString()).token_ids
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/**
 * Transcribe in a browser, block by block as the page does, and return speed and differences from Python.
 * @param {'wasm' | 'webgpu'} device
 * @param {number} seconds
 */
async function measure(device, seconds) {
  // Transcribe in a page
  const wav = recording(seconds)
  const machine = { cpu: os.cpus()[0].model, cores: os.cpus().length, load_before: round(os.loadavg()[0]) }
  server.files.set('/recording.wav', wav)
  const browser = await launch(device === 'wasm' ? NO_GPU : SWIFTSHADER)
  try {
    const page = await browser.newPage()
    await page.goto(`${server.url}blank.html`)
    const found = await page.evaluate(
      async ({ device, precision }) => {
        const { createTranscriber } = await import(/** @type {any} */ ('/src/client/index.js'))
        const { openAudio } = await import(/** @type {any} */ ('/src/shared/audio.js'))
        const transcriber = await createTranscriber({ artifactUrl: 'artifact/', device, precision })
        const file = new File([await (await fetch('recording.wav')).blob()], 'recording.wav')
        const { blocks } = await openAudio(file, transcriber.sampleRate)
        const began = performance.now()
        await transcriber.start({ isFile: false })
        for await (const samples of blocks) await transcriber.feed(samples)
        const { token_ids, info } = await transcriber.finish()
        const version = navigator.userAgent.replace(/.*(Chrome\/\d+).*/, '$1')
        return { token_ids, info, version, seconds: (performance.now() - began) / 1000 }
      },
      { device, precision: PRECISION },
    )

    // Compare with Python
    const expected = pythonTokens(wav)
    const positions = found.token_ids.length + streaming.left_pad_tokens + streaming.default_delay_tokens + 1
    return {
      date: new Date().toISOString().slice(0, 10),
      machine,
      browser: found.version,
      audio_seconds: seconds,
      rtf: round(found.seconds / seconds),
      encode_ms: found.info.encode_ms,
      decode_ms: found.info.decode_ms,
      tokens: found.token_ids.length,
      tokens_other_than_python: expected.filter((id, i) => id !== found.token_ids[i]).length,
      window_moves: Object.fromEntries(Object.entries(caches).map(([name, cache]) => [name, shifts(cache, positions)])),
    }
  } finally {
    await browser.close()
  }
}

/**
 * Return how often the rows of a cache were shifted after so many positions (`CacheSpec` in manifest.py).
 * @param {{capacity: number, keep: number, rows_per_token: number}} cache
 * @param {number} positions
 */
function shifts({ capacity, keep, rows_per_token: rows }, positions) {
  return Math.max(0, 1 + Math.floor((positions * rows - capacity) / (capacity - keep)))
}

const round = (/** @type {number} */ value) => Math.round(1000 * value) / 1000
const { caches, streaming } = JSON.parse(readFileSync(path.join(artifact, 'voxtral_onnx.json'), 'utf8'))
const server = await new TestServer({ '/artifact/': artifact, '/samples/': SAMPLES, '/': WEB }).listen()
server.files.set('/blank.html', Buffer.from('<!doctype html><title>blank</title>'))
try {
  const results = existsSync(options.out) ? JSON.parse(readFileSync(options.out, 'utf8')) : {}
  results.measured = 'tiny in q4 in headless Chromium; rtf: seconds of work for a second of audio, silence around it included'
  for (const device of /** @type {const} */ (['wasm', 'webgpu'])) {
    const seconds = Number(options[`${device}-seconds`])
    if (seconds > 0) results[device === 'wasm' ? 'wasm' : 'webgpu on SwiftShader'] = await measure(device, seconds)
  }
  writeFileSync(options.out, JSON.stringify(results, null, 1) + '\n')
  console.log(results)
} finally {
  await server.close()
  await removeProfiles()
}
