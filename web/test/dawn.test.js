/**
 * A test of the engine on WebGPU in float16 with captured calls, in Node.js on Dawn: Python’s tokens, over shifts of both
 * caches. Chromium’s software adapter has no float16.
 */

import assert from 'node:assert/strict'
import { openAsBlob } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { selectBackend } from '../src/engine/select-backend.js'
import { openDevice } from '../src/engine/device.js'
import { Manifest } from '../src/engine/manifest.js'
import { Transcriber } from '../src/engine/transcriber.js'
import { ARTIFACT, clip, pythonTranscripts } from './samples.js'

const FIRM = 0.2 // as tests/test_tiny.py: decisions with a larger margin survive the rounding of other kernels
const TOKENS = 144 // of audio: with the silence before it more rows than both caches have

test('q4f16 on WebGPU has Python’s tokens, over shifts of both windows', async (t) => {
  const dawn = await import(pathToFileURL(path.join(process.env.DAWN ?? '', 'node_modules/webgpu/index.js')).href)
  Object.assign(globalThis, dawn.globals)
  const gpu = dawn.create(['backend=vulkan', 'enable-dawn-features=allow_unsafe_apis'])
  Object.defineProperty(globalThis, 'navigator', { value: { gpu, userAgent: 'node', hardwareConcurrency: 2 }, configurable: true })

  const manifest = new Manifest(await readFile(path.join(ARTIFACT, 'voxtral_onnx.json'), 'utf8'))
  const { precision, adapter } = await selectBackend(manifest, { device: 'webgpu' })
  assert.equal(precision, 'q4f16', `${adapter} has no float16`)
  const device = await openDevice('webgpu')
  const readFileOf = (/** @type {string} */ name) => openAsBlob(path.join(ARTIFACT, name))
  const transcriber = await Transcriber.open({ manifest, readFile: readFileOf, precision, device })
  assert.deepEqual([device.captures, transcriber.notes], [true, []])

  const expected = (await pythonTranscripts())['long-mixed.wav']
  const { samplesPerToken, streaming } = manifest
  const stream = transcriber.stream()
  const ids = []
  const fed = (await clip('long-mixed.wav')).subarray(0, TOKENS * samplesPerToken + streaming.look_ahead_samples)
  for await (const { tokenId } of stream.feed(fed)) ids.push(tokenId)

  assert.ok(stream.decoderCache.position > stream.decoderCache.spec.capacity)
  assert.ok(stream.encoderCache.position > stream.encoderCache.spec.capacity)
  assert.equal(ids.length, TOKENS - stream.numDelayTokens)
  const first = ids.findIndex((id, i) => id !== expected.ids[i])
  if (first < 0) return
  assert.ok(Math.abs(expected.margins[first]) < FIRM, `token ${first}, a margin of ${expected.margins[first]}, went otherwise`)
  t.diagnostic(`token ${first}, a margin of ${expected.margins[first]}, went otherwise`)
  assert.ok(first > stream.decoderCache.spec.capacity / 2)
})
