/** Tests of the engine in WebAssembly: it gives the tokens of the Python runtime on the same artifact. */

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { openDevice } from '../src/engine/device.js'
import { ArtifactError, AudioError, DeviceError } from '../src/shared/errors.js'
import { Live } from '../src/engine/live.js'
import { Manifest } from '../src/engine/manifest.js'
import { readSelfTest, selfTest } from '../src/engine/self-test.js'
import { Transcriber } from '../src/engine/transcriber.js'
import { ARTIFACT, SAMPLES, certificate, clip, pythonTranscripts } from './samples.js'

const FIRM = 0.2 // as tests/test_tiny.py: decisions with a larger margin survive the rounding of other kernels

/** @type {Transcriber} */
let transcriber
/** @type {import('../src/engine/device.js').Device} */
let device
/** @type {Manifest} */
let manifest

const readFileOf = async (/** @type {string} */ name) => new Blob([await readFile(path.join(ARTIFACT, name))])

before(async () => {
  device = await openDevice('wasm')
  manifest = new Manifest(await readFile(path.join(ARTIFACT, 'voxtral_onnx.json'), 'utf8'))
  transcriber = await Transcriber.open({ manifest, readFile: readFileOf, precision: 'q4', device })
})
after(() => transcriber.close())

/**
 * Transcribe samples that arrive in chunks.
 * @param {Float32Array} samples
 * @param {number} size of the chunks
 * @param {boolean} [isHeldUp] all chunks are transcribed together, as by a page that was in a hidden tab
 */
async function transcribe(samples, size, isHeldUp = false) {
  const live = new Live(transcriber.stream({ stopAtEos: true }), () => {})
  for (let at = 0; at < samples.length && !live.stream.finished; at += size) {
    live.arrive(samples.slice(at, at + size), performance.now())
    if (!isHeldUp) await live.advance()
  }
  if (isHeldUp) await live.advance()
  const transcript = await live.finish()
  live.stream.release()
  return transcript
}

test('every sample clip has Python’s tokens, text and times', async (t) => {
  for (const [name, expected] of Object.entries(await pythonTranscripts())) {
    await t.test(name, async () => {
      const isLong = name === 'long-mixed.wav'
      const { token_ids, text, segments } = await transcribe(await clip(name), isLong ? 320 : 20480, isLong)
      const first = token_ids.findIndex((id, i) => id !== expected.ids[i])
      if (first >= 0 && Math.abs(expected.margins[first]) < FIRM) {
        return t.diagnostic(`${name}: token ${first}, a margin of ${expected.margins[first]}, went otherwise`)
      }
      assert.deepEqual(token_ids, expected.ids)
      assert.equal(text, expected.text)
      const times = segments.map((s) => [s.start, s.end, s.text])
      assert.deepEqual(times.map(([start, end, text]) => [Number(start).toFixed(3), Number(end).toFixed(3), text]), expected.segments)
    })
  }
})

test('the sizes of chunks change nothing', async () => {
  const samples = (await clip('digits-espeak.wav')).subarray(0, 16000)
  const [whole, pieces] = [await transcribe(samples, 16000), await transcribe(samples, 1234)]
  assert.deepEqual(pieces.token_ids, whole.token_ids)
})

test('a stream refuses what is not sound and goes on', async () => {
  const stream = transcriber.stream()
  const damaged = Float32Array.of(0, NaN)
  await assert.rejects(stream.feed(damaged).next(), (e) => e instanceof AudioError && /sample 1 is NaN/.test(e.message))
  await assert.rejects(stream.feed(/** @type {any} */ ([0])).next(), AudioError)
  assert.equal(stream.numSamples, 0)
  for await (const _ of stream.finish());
  assert.equal(stream.numGenerated, manifest.streaming.right_pad_tokens - 1)
  await assert.rejects(stream.feed(new Float32Array(1)).next(), /the stream is finished/)
  stream.release()
})

test('the self-test passes where all sure tokens agree, and only there', async () => {
  const expected = await readSelfTest(await certificate(manifest.text), manifest, 'q4')
  assert.ok(expected)
  const file = new File([await readFile(path.join(SAMPLES, expected.clip))], expected.clip)
  await selfTest(transcriber, expected, file)
  const { token_ids: ids, blank_margins: margins } = expected
  const other = (/** @type {number} */ margin) => ({ ...expected, token_ids: ids.with(7, ids[7] + 1), blank_margins: margins.with(7, margin) })
  await selfTest(transcriber, other(-0.9), file)
  const failed = /self-test failed: 1 of the \d+ tokens .* the first at 0\.56 s; update the browser/
  await assert.rejects(selfTest(transcriber, other(-1.1), file), (e) => e instanceof DeviceError && failed.test(e.message))
  await assert.rejects(selfTest(transcriber, { ...expected, token_ids: ids.slice(1) }, file), DeviceError)
})

test('a file that is not the manifest’s graph is refused', async () => {
  const [encoder, decoder] = [manifest.precisions.q4.encoder, manifest.precisions.q4.decoder]
  const swapped = { ...manifest.precisions.q4, encoder: { ...encoder, inputs: decoder.inputs } }
  const wrong = Object.assign(new Manifest(manifest.text), { precisions: { q4: swapped } })
  const opened = Transcriber.open({ manifest: wrong, readFile: readFileOf, precision: 'q4', device })
  await assert.rejects(opened, (e) => e instanceof ArtifactError && /input 'input_ids' is not both/.test(e.message))
  const broken = Transcriber.open({ manifest, readFile: async (p) => (p.endsWith('.onnx') ? new Blob(['x']) : readFileOf(p)), precision: 'q4', device })
  await assert.rejects(broken, /mel\.onnx: onnxruntime cannot load it/)
})
