/** Tests of the parts without a model, over the same golden files as tests/runtime/test_golden.py. */

import assert from 'node:assert/strict'
import { File } from 'node:buffer'
import { readFile, readdir } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { readWavHeader } from '../src/shared/audio.js'
import { CapturedCache, KVCache } from '../src/engine/cache.js'
import { openDevice, tensorOf } from '../src/engine/device.js'
import { copyGraph } from '../src/engine/graph-capture.js'
import { artifactAddress } from '../src/page/artifact-address.js'
import { captions, render, transcriptOf } from '../src/shared/captions.js'
import { addressOf, download, readText, sha256 } from '../src/engine/download.js'
import { ArtifactError, AudioError, DeviceError, StorageError, UsageError, errorOf, errorValues } from '../src/shared/errors.js'
import { roundHalfEven, toFloat16 } from '../src/shared/float16.js'
import { CacheSpec, Manifest, PIECE_SIZE } from '../src/engine/manifest.js'
import { Resampler } from '../src/shared/resample.js'
import { group, within } from '../src/engine/segments.js'
import { readSelfTest } from '../src/engine/self-test.js'
import { Stream } from '../src/engine/stream.js'
import { TextPieces, Tokenizer } from '../src/engine/tokenizer.js'
import { Transcriber } from '../src/engine/transcriber.js'
import { selectBackend } from '../src/engine/select-backend.js'
import { columns } from '../src/shared/text-width.js'
import { ARTIFACT, GOLDEN, SAMPLES, WEB } from './samples.js'
import { TestServer } from './server.js'

const TOKENS = { bos: 1, eos: 2, streaming_pad: 32, streaming_word: 33, first_text: 1000 }

/** Read a golden file. @param {string} name */
const golden = async (name) => JSON.parse(await readFile(path.join(GOLDEN, `${name}.json`), 'utf8'))
const manifestText = () => readFile(path.join(ARTIFACT, 'voxtral_onnx.json'), 'utf8')

test('rows are shifted at the manifest’s rule', async () => {
  for (const { spec, positions, rows, room } of Object.values(await golden('cache'))) {
    const cache = new CacheSpec(spec)
    assert.deepEqual(positions.map(/** @param {number} p */ (p) => cache.row(p)), rows)
    assert.deepEqual(positions.map(/** @param {number} p */ (p) => cache.slotsLeft(p)), room)
  }
  const { spec } = (await golden('cache')).encoder
  assert.throws(() => new CacheSpec({ ...spec, keep: spec.capacity }), ArtifactError)
})

test('a cache is shifted when it is full, and no call may cross a shift', () => {
  /** @type {number[]} */
  const shifts = []
  const binding = { isBound: true, clear() {}, shiftRows: (/** @type {number} */ keep) => shifts.push(keep) }
  const session = { acquire: () => binding, graph: { inputs: [{ name: 'cos', dtype: 'float32', shape: [] }] } }
  const spec = new CacheSpec({ .../** @type {any} */ ({ head_dim: 4, rope_theta: 10 }), rows_per_token: 4, keep: 8, capacity: 16 })
  const cache = new KVCache(/** @type {any} */ (session), spec)
  const seen = []
  for (let call = 0; call < 8; call++) {
    cache.advance(4)
    seen.push([cache.position, cache.slotsLeft, shifts.length])
  }
  assert.deepEqual(seen, [[4, 12, 0], [8, 8, 0], [12, 4, 0], [16, 8, 1], [20, 4, 1], [24, 8, 2], [28, 4, 2], [32, 8, 3]])
  assert.throws(() => cache.positions(12), /cross a shift/)
})

test('a captured call writes behind a ring of the rows before it', () => {
  /** @type {number[][]} */
  const folds = []
  const binding = { isBound: true, clear() {}, fold: (/** @type {number} */ ring, /** @type {number} */ row) => folds.push([ring, row]) }
  const session = { acquire: () => binding, graph: { inputs: [{ name: 'cos', dtype: 'float32', shape: [] }] } }
  const values = /** @type {any} */ ({ head_dim: 4, rope_theta: 10, num_layers: 1, num_key_value_heads: 1 })
  const spec = new CacheSpec({ ...values, rows_per_token: 4, window: 10, keep: 12, capacity: 20 })
  const cache = new CapturedCache(/** @type {any} */ (session), spec)
  const seen = []
  for (let call = 0; call < 5; call++) {
    seen.push([cache.position, cache.row, cache.visibleRows(4), cache.slotsLeft])
    cache.advance(4)
  }
  assert.deepEqual(seen, [[0, 0, 4, 4], [4, 4, 8, 4], [8, 8, 12, 4], [12, 8, 12, 4], [16, 8, 12, 4]])
  assert.deepEqual(folds, [[8, 0], [8, 4], [8, 0]])
})

test('a model whose calls cannot be captured is loaded again without, and that is said', async (t) => {
  const device = /** @type {any} */ ({ captures: true })
  const loads = /** @type {boolean[]} */ ([])
  t.mock.method(Transcriber, 'load', async () => {
    loads.push(device.captures)
    if (device.captures) throw new ArtifactError('a node stands on the CPU')
    return new Transcriber(/** @type {any} */ ({}), /** @type {any} */ ({}), /** @type {any} */ ({}), /** @type {any} */ ({}), true)
  })
  const { notes } = await Transcriber.open(/** @type {any} */ ({ device }))
  assert.deepEqual(loads, [true, false])
  assert.match(notes.join(), /cannot be captured.*a node stands on the CPU/)
})

test('rotations come from the absolute position', async () => {
  const { positions, cos, sin } = await golden('rotation')
  const { spec } = (await golden('cache')).encoder
  const frequencies = Array.from({ length: spec.head_dim / 2 }, (_, j) => spec.rope_theta ** ((-2 * j) / spec.head_dim))
  for (const [i, position] of positions.entries()) {
    for (const [j, frequency] of frequencies.entries()) {
      assert.ok(Math.abs(Math.cos(position * frequency) - cos[i][j]) < 1e-8, `cos at ${position}`)
      assert.ok(Math.abs(Math.sin(position * frequency) - sin[i][j]) < 1e-8, `sin at ${position}`)
    }
  }
})

test('float16 rounds as NumPy does', async () => {
  const { values, bits } = await golden('float16')
  const got = toFloat16(values)
  for (const [i, value] of values.entries()) {
    const expected = Object.is(value, 0) || value === 0 ? bits[i] & 0x7fff : bits[i]
    assert.equal(value === 0 ? got[i] & 0x7fff : got[i], expected, `float16 of ${value}`)
  }
  assert.deepEqual([0.5, 1.5, 2.5, -1.5, 2.4999].map(roundHalfEven), [0, 2, 2, -2, 2])
})

test('tokens become text as soon as characters are whole', async () => {
  const tokenizer = new Tokenizer(await readFile(path.join(SAMPLES, '../tekken.json'), 'utf8'), TOKENS)
  for (const { ids, pieces, rest, text } of (await golden('text')).cases) {
    const decoder = new TextPieces(tokenizer)
    assert.deepEqual(ids.map(/** @param {number} id */ (id) => decoder.push(id)), pieces)
    assert.equal(decoder.flush(), rest)
    assert.equal(tokenizer.decode(ids), text)
  }
  for (const wrong of ['{}', 'null', '[', '{"vocab": {}}', '{"vocab": [null]}', '{"vocab": [{"token_bytes": 1}]}', '{"vocab": [{"token_bytes": "a"}]}']) {
    assert.throws(() => new Tokenizer(wrong, TOKENS), /not a readable Tekken tokenizer/)
  }
  assert.throws(() => tokenizer.bytesOf(1 << 20), /tekken.json: no token 1048576/)
})

test('segments have Python’s times', async () => {
  for (const { tokens, segments, within: ends } of Object.values(await golden('segments'))) {
    const given = tokens.map((/** @type {any} */ t, /** @type {number} */ index) => ({ ...t, index, tokenId: t.token_id, blankMargin: 0 }))
    const found = [...group(given, TOKENS)]
    assert.deepEqual(found.map((s) => [s.id, s.text, s.token_ids]), segments.map(/** @param {any} s */ (s) => [s.id, s.text, s.token_ids]))
    for (const [i, segment] of found.entries()) {
      assert.ok(Math.abs(segment.start - segments[i].start) < 1e-3 && Math.abs(segment.end - segments[i].end) < 1e-3)
      assert.ok(Math.abs(segment.avg_logprob - segments[i].avg_logprob) < 1e-4)
    }
    assert.deepEqual(found.map((s) => within(s, 0.16)).map((s) => [s.start, s.end]), ends)
  }
})

test('captions and files are Python’s', async () => {
  for (const [name, expected] of Object.entries(await golden('captions'))) {
    const { duration } = expected
    const segments = expected.segments.map(/** @param {any} s */ ({ logprob: avg_logprob, ...s }) => ({ ...s, avg_logprob }))
    assert.deepEqual([...captions(segments)], expected.captions, name)
    const transcript = transcriptOf({ segments, token_ids: [], duration, info: { delay_ms: 480 } })
    assert.deepEqual(transcript, JSON.parse(expected.json), name)
    for (const format of ['txt', 'srt', 'vtt']) assert.equal(render(transcript, format), expected[format], `${name}.${format}`)
    assert.deepEqual(JSON.parse(render(transcript, 'json')), JSON.parse(expected.json), name)
  }
  for (const [text, count] of Object.entries(await golden('columns'))) assert.equal(columns(text), count, text)
})

test('streams of other scripts become the same text and captions', async () => {
  const { token_bytes: bytes, seconds_per_token: step, streams, ...ids } = await golden('streams')
  const vocab = Array.from({ length: Math.max(...Object.keys(bytes).map(Number)) - ids.first_text + 1 }, (_, rank) => ({
    token_bytes: bytes[rank + ids.first_text] ?? '',
  }))
  const tokens = { ...TOKENS, ...ids }
  const tokenizer = new Tokenizer(JSON.stringify({ vocab }), tokens)
  for (const [language, expected] of Object.entries(streams)) {
    const pieces = new TextPieces(tokenizer)
    const given = expected.token_ids.map((/** @type {number} */ tokenId, /** @type {number} */ index) => (
      { index, tokenId, text: pieces.push(tokenId), end: (index + 1) * step, logprob: -0.1, blankMargin: 0 }
    ))
    const segments = [...group(given, tokens)]
    assert.equal(tokenizer.decode(expected.token_ids), expected.text, language)
    assert.deepEqual(segments.map((s) => s.text), expected.segments.map((/** @type {any} */ s) => s.text), language)
    assert.deepEqual([...captions(segments)].map((c) => c.lines), expected.captions.map((/** @type {any} */ c) => c.lines))
    const transcript = transcriptOf({ segments, token_ids: expected.token_ids, duration: 60, info: { delay_ms: 480 } })
    for (const format of ['srt', 'vtt']) assert.equal(render(transcript, format), expected[format], `${language}.${format}`)
  }
})

test('the blank guard takes off what Python’s does', async () => {
  for (const [blanks, penalty] of Object.entries(await golden('guard'))) {
    assert.equal(Stream.prototype.blankPenalty.call(/** @type {any} */ ({ blanks: Number(blanks), guard: true })), penalty)
    assert.equal(Stream.prototype.blankPenalty.call(/** @type {any} */ ({ blanks: Number(blanks), guard: false })), 0)
  }
})

test('a manifest is held to its format', async () => {
  const text = await manifestText()
  const manifest = new Manifest(text)
  assert.ok([...manifest.filesOf('q4').keys()].includes('onnx/mel.onnx'))
  assert.equal(manifest.delayTokens(480), 6)
  for (const wrong of [0, 81, 2480, 40.5]) assert.throws(() => manifest.delayTokens(wrong), UsageError)
  assert.throws(() => manifest.decoderCache(63), UsageError)
  const { keep, capacity } = manifest.decoderCache(64)
  assert.deepEqual([keep, capacity], [63, 79])
  assert.throws(() => new Manifest('{"format": 3}'), /expected format 1 or 2, got 3; reload the page of a newer/)
  assert.throws(() => new Manifest('{"format": 0}'), /expected format 1 or 2, got 0; export again/)
  assert.throws(() => new Manifest('{"format": 1}'), /not a valid manifest \(expected 1 to 256 characters at generator\)/)
  assert.throws(() => new Manifest('<html>'), /cannot be read/)
  assert.throws(() => new Manifest('{"format": {"toString": 1}}'), /got {"toString":1}; export again/)
  const lost = new Manifest(JSON.stringify({ ...JSON.parse(text), files: {} }))
  assert.throws(() => lost.filesOf('q4'), /gives no size and hash/)
})

test('a manifest is taken or refused as Python does', async () => {
  const { base, cases } = await golden('manifests')
  for (const [taken, keys, ...value] of cases) {
    const values = structuredClone(base)
    const place = keys.slice(0, -1).reduce((/** @type {any} */ place, /** @type {string} */ key) => place[key], values)
    if (value.length === 0) delete place[keys.at(-1)]
    else Object.defineProperty(place, keys.at(-1), { value: value[0], enumerable: true, configurable: true, writable: true })
    assert.equal(takes(JSON.stringify(values)), taken, `${keys.join('.')}: ${JSON.stringify(value[0])?.slice(0, 200)}`)
  }
})

test('names of every object are names of files too', async () => {
  const { base } = await golden('manifests')
  const text = JSON.stringify(base).replaceAll('tekken.json', '__proto__').replaceAll('"q4":', '"constructor":')
  const manifest = new Manifest(text)
  assert.equal(Object.keys(manifest.files)[0], '__proto__')
  assert.equal(manifest.files.toString, undefined)
  assert.equal(manifest.precisions.valueOf, undefined)
  assert.throws(() => manifest.filesOf('constructor'), /gives no size and hash of tekken.json/)
})

test('no more is read than the budget', async () => {
  const body = (/** @type {BlobPart[]} */ ...parts) => new Blob(parts).stream()
  assert.equal(await readText(body('é', 'é'), 4, 'a'), 'éé')
  assert.equal(await readText(null, 4, 'a'), '')
  await assert.rejects(readText(body('ééé'), 5, 'a'), /^ArtifactError: a: expected at most 5 bytes, found more/)
  await assert.rejects(readText(body(Uint8Array.of(0xff)), 5, 'a'), /^ArtifactError: a: not UTF-8/)
  let pulled = 0
  const endless = new ReadableStream({ pull: (controller) => (pulled++, controller.enqueue(new Uint8Array(1 << 16))) })
  await assert.rejects(readText(endless, 1 << 20, 'a'), ArtifactError)
  assert.ok(pulled < 20)
})

test('a file’s address leads below its folder, whatever its name holds', () => {
  for (const [name, expected] of [['onnx/a b.onnx', 'onnx/a%20b.onnx'], ['%2e%2e/x', '%252e%252e/x'], ['a?b#c', 'a%3Fb%23c']]) {
    assert.equal(new URL(addressOf('http://host/artifact/', name)).href, `http://host/artifact/${expected}`)
  }
})

test('a manifest of format 1 is read', async () => {
  const manifest = new Manifest(JSON.stringify(await golden('manifest_1')))
  assert.ok(manifest.files['delay_network.gguf'])
  assert.deepEqual([...manifest.filesOf('q4f16').keys()].slice(0, 3), ['tekken.json', 'onnx/mel.onnx', 'onnx/encoder_q4f16.onnx'])
})

test('a certificate speaks for the manifest that it names', async () => {
  const manifest = new Manifest(await manifestText())
  const expected = { clip: 'a.wav', num_delay_tokens: 6, token_ids: [32, 1001], blank_margins: [1.5, -2] }
  const certificate = { manifest_sha256: await sha256(Buffer.from(manifest.text)), details: { q4: { self_test: expected }, q8: {} } }
  assert.deepEqual(await readSelfTest(JSON.stringify(certificate), manifest, 'q4'), expected)
  for (const precision of ['q8', 'fp32', 'constructor', '__proto__']) assert.equal(await readSelfTest(JSON.stringify(certificate), manifest, precision), undefined)
  const wrongs = [{ clip: '../a.wav' }, { num_delay_tokens: 31 }, { token_ids: [1] }, { token_ids: [-1, 1] }, { blank_margins: ['1', 2] }]
  const changed = wrongs.map((wrong) => ({ ...certificate, details: { q4: { self_test: { ...expected, ...wrong } } } }))
  const others = [{ ...certificate, manifest_sha256: 'f' }, { ...certificate, details: [] }, ...changed].map((c) => JSON.stringify(c))
  for (const other of [...others, '{}', 'null', '', '<html>']) {
    assert.equal(await readSelfTest(other, manifest, 'q4'), undefined)
  }
})

test('device and precision are chosen before anything is downloaded', async () => {
  const manifest = new Manifest(await manifestText())
  /** @param {{features?: string[], limits?: Record<string, number>} | null | undefined} adapter undefined: no WebGPU */
  const withAdapter = async (adapter, requested = {}) => {
    const limits = { maxBufferSize: 2 ** 31, maxStorageBufferBindingSize: 2 ** 27, ...adapter?.limits }
    const found = adapter && { features: new Set(adapter.features), limits, info: { vendor: 'v', architecture: 'a' } }
    const gpu = adapter === undefined ? undefined : { requestAdapter: async () => found }
    Object.defineProperty(globalThis, 'navigator', { value: { gpu }, configurable: true })
    return selectBackend(manifest, requested)
  }
  const whole = await withAdapter({ features: ['shader-f16', 'subgroups'] })
  assert.deepEqual([whole.precision, whole.notes], ['q4f16', []])
  assert.match((await withAdapter({ features: ['shader-f16'] })).notes.join(), /no subgroups, so its calls cannot be captured and replayed/)
  const float32 = await withAdapter({})
  assert.equal(float32.precision, 'q4')
  assert.match(float32.notes[0], /no float16 \(shader-f16\), so the model runs in q4/)
  const cpu = await withAdapter(null)
  assert.deepEqual([cpu.deviceName, cpu.precision], ['wasm', 'q4'])
  assert.match(cpu.notes[0], /running on the CPU in WebAssembly: .* no graphics card that WebGPU can use/)
  await assert.rejects(withAdapter(undefined, { device: 'webgpu' }), DeviceError)
  await assert.rejects(withAdapter({}, { precision: 'q4f16', device: 'webgpu' }), /q4f16 does not run here: this graphics adapter has no float16/)
  await assert.rejects(withAdapter({ limits: { maxBufferSize: 1e5 } }, { device: 'webgpu' }), /maxBufferSize is 1 MB, q4 of this model needs/)
  const { q4f16 } = manifest.precisions
  const half = Object.assign(new Manifest(manifest.text), { precisions: { q4f16 } })
  await assert.rejects(selectBackend(half), /this page offers q4f16, and none of them runs here: .*float32; serve q4 too: voxtral-onnx serve/)
  const small = { limits: { maxStorageBufferBindingSize: 1e5 } }
  await assert.rejects(withAdapter(small, { device: 'webgpu' }), /maxStorageBufferBindingSize is 1 MB, q4 of this model needs \d+ MB; use another computer/)
  assert.match((await withAdapter(small)).notes[0], /running on the CPU in WebAssembly: .*maxStorageBufferBindingSize/)
  const files = Object.fromEntries(Object.entries(manifest.files).map(([name, f]) => [name, { ...f, size: 1e9 }]))
  Object.assign(manifest, { files })
  await assert.rejects(withAdapter(null), /needs WebGPU: on the CPU it could not keep up/)
})

test('downloads are checked piece by piece, resume, and refuse a corrupted byte', async () => {
  const content = Buffer.alloc(2 * PIECE_SIZE + 1000)
  for (let i = 0; i < content.length; i++) content[i] = (7 * i) & 255
  const hashes = [0, 1, 2].map((i) => sha256(content.subarray(i * PIECE_SIZE, (i + 1) * PIECE_SIZE)))
  const spec = { size: content.length, sha256: await sha256(content), pieces: await Promise.all(hashes) }
  const server = await new TestServer({}).listen()
  server.files.set('/weights', content)
  const url = `${server.url}weights`
  try {
    const store = memoryStore()
    server.cuts.set('/weights', PIECE_SIZE + 4096) // breaks inside the second piece
    const counted = { kept: 0, fetched: 0 }
    await download(url, 'weights', spec, store, (bytes, isNew) => (counted[isNew ? 'fetched' : 'kept'] += bytes), [1])
    assert.deepEqual(server.requests.map(({ range }) => range), [undefined, `bytes=${PIECE_SIZE}-`])
    assert.equal(counted.kept + counted.fetched, content.length)
    assert.ok(content.equals(await store.bytes(spec.sha256)))

    const again = memoryStore()
    await again.append(spec.sha256, 0, content.subarray(0, PIECE_SIZE + 5)) // a closed tab, half a piece written
    server.requests.length = 0
    await download(url, 'weights', spec, again, () => {}, [1])
    assert.equal(server.requests[0].range, `bytes=${PIECE_SIZE}-`)
    assert.ok(content.equals(await again.bytes(spec.sha256)))
    server.requests.length = 0
    await download(url, 'weights', spec, again, () => {}, [1])
    assert.equal(server.requests.length, 0)

    const damaged = Buffer.from(content)
    damaged[PIECE_SIZE + 1] ^= 1
    server.files.set('/weights', damaged)
    const third = memoryStore()
    const refused = download(url, 'weights', spec, third, () => {}, [1])
    await assert.rejects(refused, (e) => e instanceof ArtifactError && /weights: bytes from 16777216: expected sha256/.test(e.message))
    assert.equal(await third.size(spec.sha256), PIECE_SIZE)
  } finally {
    await server.close()
  }
  await assert.rejects(download(url, 'weights', spec, memoryStore(), () => {}, [1]), StorageError)
  const missing = await new TestServer({}).listen()
  await assert.rejects(download(`${missing.url}weights`, 'weights', spec, memoryStore(), () => {}, [1]), /the server answered 404/)
  await missing.close()
})

test('a WAV is read slice by slice, whatever its samples are', async () => {
  for (const [bits, isFloat] of /** @type {[number, boolean][]} */ ([[8, false], [16, false], [24, false], [32, false], [32, true], [64, true]])) {
    const wav = await readWavHeader(wavFile(bits, isFloat, 2, 100), 'a.wav')
    assert.deepEqual([wav?.channels, wav?.rate, wav?.frames, wav?.bits, wav?.isFloat], [2, 8000, 100, bits, isFloat])
  }
  assert.equal(await readWavHeader(new Blob(['OggS and more']), 'a.ogg'), undefined)
  await assert.rejects(readWavHeader(new Blob(['RIFF0000WAVE']), 'a.wav'), AudioError)
})

test('resampling keeps tones below the new Nyquist frequency and removes those above, in any blocks', () => {
  for (const rate of [8000, 22050, 44100, 48000, 96000]) {
    const tone = (/** @type {number} */ hertz) => Float32Array.from({ length: rate / 2 }, (_, i) => Math.sin((2 * Math.PI * hertz * i) / rate))
    const whole = new Resampler(rate, 16000)
    const low = [...whole.push(tone(1000)), ...whole.end()]
    assert.equal(low.length, 8000)
    const worst = Math.max(...low.slice(500, 7500).map((x, i) => Math.abs(x - Math.sin((2 * Math.PI * 1000 * (i + 500)) / 16000))))
    assert.ok(worst < 1e-3, `${rate} Hz: ${worst}`)
    if (rate > 20000) {
      const high = new Resampler(rate, 16000).push(tone(9000)).subarray(500, -500)
      assert.ok(Math.max(...high.map(Math.abs)) < 1e-3, `${rate} Hz: an alias`)
    }
    const pieces = new Resampler(rate, 16000)
    const joined = []
    const samples = tone(1000)
    for (let at = 0; at < samples.length; at += 997) joined.push(...pieces.push(samples.subarray(at, at + 997)))
    assert.deepEqual([...joined, ...pieces.end()], low)
  }
  const same = Float32Array.of(1, 2, 3)
  assert.equal(new Resampler(16000, 16000).push(same), same)
})

test('errors keep their kind over the worker’s border', () => {
  const error = errorOf(errorValues(new StorageError('full')))
  assert.ok(error instanceof StorageError)
  assert.equal(`${error}`, 'StorageError: full')
  assert.equal(errorOf(errorValues('text')).message, 'text')
})

/** Return whether a manifest is taken. @param {string} text */
function takes(text) {
  try {
    new Manifest(text)
    return true
  } catch (error) {
    assert.ok(error instanceof ArtifactError, `${/** @type {Error} */ (error).stack}`)
    return false
  }
}

/** Return a store in memory. */
function memoryStore() {
  /** @type {Map<string, Buffer>} */
  const files = new Map()
  const bytes = async (/** @type {string} */ hash) => files.get(hash) ?? Buffer.alloc(0)
  return /** @type {import('../src/engine/store.js').Store & {bytes: typeof bytes}} */ (
    /** @type {unknown} */ ({
      bytes,
      size: async (/** @type {string} */ hash) => (await bytes(hash)).length,
      append: async (/** @type {string} */ hash, /** @type {number} */ offset, /** @type {Uint8Array} */ part) => {
        files.set(hash, Buffer.concat([(await bytes(hash)).subarray(0, offset), part]))
      },
      blob: async (/** @type {string} */ hash) => new Blob([Uint8Array.from(await bytes(hash))]),
    })
  )
}

/**
 * Return a WAV of silence, in a header with a chunk of odd size.
 * @param {number} bits
 * @param {boolean} isFloat
 * @param {number} channels
 * @param {number} frames
 * @returns {any}
 */
function wavFile(bits, isFloat, channels, frames) {
  const header = Buffer.alloc(12 + 8 + 16 + 8 + 6 + 8)
  header.write('RIFF', 0)
  header.write('WAVE', 8)
  header.write('fmt ', 12)
  header.writeUInt32LE(16, 16)
  header.writeUInt16LE(isFloat ? 3 : 1, 20)
  header.writeUInt16LE(channels, 22)
  header.writeUInt32LE(8000, 24)
  header.writeUInt16LE(bits, 34)
  header.write('LIST', 36) // of an odd size, padded
  header.writeUInt32LE(5, 40)
  header.write('data', 50)
  header.writeUInt32LE(0x7fffffff, 54) // as a pipe promises
  return new File([header, Buffer.alloc((frames * channels * bits) / 8)], 'a.wav')
}

test('the service worker keeps every source file', async () => {
  const worker = await readFile(path.join(WEB, 'sw.js'), 'utf8')
  const listed = (/** @type {string} */ constant) => {
    const [, names] = new RegExp(`const ${constant} = \\[([^\\]]*)\\]`).exec(worker) ?? []
    return [...names.matchAll(/'([^']+)'/g)].map(([, name]) => name)
  }
  const found = (await readdir(path.join(WEB, 'src'), { recursive: true })).sort()
  const sources = listed('SOURCES').map((name) => `${name}.js`)
  assert.deepEqual(sources, found.filter((name) => name.endsWith('.js')))
  assert.deepEqual(listed('GRAPHS'), found.filter((name) => name.endsWith('.onnx')))
})

test('the graph that allocates copies tensors of any shape', async () => {
  const { ort } = await openDevice('wasm')
  for (const dtype of /** @type {const} */ (['float16', 'float32'])) {
    const session = await ort.InferenceSession.create(await copyGraph(dtype))
    for (const dims of [[6], [1, 2, 3], [1, 2, 3, 5]]) {
      const values = tensorOf(ort, dtype, Array.from({ length: dims.reduce((a, b) => a * b) }, (_, i) => i / 2), dims)
      const { copy } = await session.run({ values })
      assert.deepEqual([copy.type, copy.dims, copy.data], [dtype, dims, values.data])
    }
    await session.release()
  }
})

test('a link names artifacts of the page’s own origin, or of those that the site allows', () => {
  const page = 'https://own.example:8000/site/?artifact=x'
  const allowed = 'https://models.example http://models.example:81 https://*.many.example'
  const address = (/** @type {string} */ asked) => artifactAddress(asked, page, allowed)
  for (const [asked, found] of [
    ['other/', 'https://own.example:8000/site/other/'],
    ['/other/', 'https://own.example:8000/other/'],
    ['https:stranger.example/a/', 'https://own.example:8000/site/stranger.example/a/'],
    ['https://OWN.example:8000/a', 'https://own.example:8000/a'],
    ['https://models.example/a/', 'https://models.example/a/'],
    ['https://models.example:443/a/', 'https://models.example/a/'],
    ['http://models.example:81/', 'http://models.example:81/'],
    ['https://a.b.many.example/', 'https://a.b.many.example/'],
  ]) {
    assert.equal(address(asked), found)
  }
  for (const asked of [
    'https://stranger.example/',
    '//stranger.example/',
    '\\\\stranger.example/',
    'http://own.example:8000/', // another scheme
    'https://own.example/', // another port
    'http://models.example/',
    'https://models.example.stranger.example/',
    'https://many.example/',
    'https://amany.example/',
    'http://a.many.example/',
    'https://a.many.example:8443/',
    'https://models.example@stranger.example/',
    'https://name:word@models.example/',
    'https://name@own.example:8000/',
    'javascript:alert(1)',
    'data:application/json,{}',
    'blob:https://own.example:8000/0-0',
    'file:///etc/passwd',
    'filesystem:https://own.example:8000/a',
    'https://',
  ]) {
    assert.throws(() => address(asked), UsageError, asked)
  }
  assert.throws(() => artifactAddress('https://stranger.example/', page, ''), /from https:\/\/stranger\.example, .*--allow-artifacts/)
})
