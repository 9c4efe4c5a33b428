/** Tests of what the package's callers use, in a headless Chromium: recordings, live sound, the element, and mistakes. */

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { CLIP, NO_GPU, launch, microphone, removeProfiles, shoot, violations } from './browser.js'
import { ARTIFACT, SAMPLES, WEB, pythonTranscripts } from './samples.js'
import { TestServer } from './server.js'

/** @typedef {typeof import('../src/client/index.js')} Package */

const HTML = '<!doctype html><html lang="en"><title>x</title><main><h1>x</h1><voxtral-captions artifact="/artifact/"></voxtral-captions></main>'
/** @type {TestServer} */
let server
/** @type {import('playwright-core').BrowserContext} */
let browser
/** @type {import('playwright-core').Page} */
let page

before(async () => {
  server = await new TestServer({ '/artifact/': ARTIFACT, '/samples/': SAMPLES, '/': WEB }).listen()
  server.files.set('/page.html', Buffer.from(HTML))
  browser = await launch([...NO_GPU, ...microphone(true), '--autoplay-policy=no-user-gesture-required'])
  page = await browser.newPage()
  await page.goto(`${server.url}page.html`)
  await page.evaluate(async () => {
    const found = await import(/** @type {any} */ ('/src/client/index.js'))
    const transcriber = await found.createTranscriber({ artifactUrl: '/artifact/' })
    Object.assign(globalThis, found, { transcriber })
  })
})
after(async () => {
  await browser.close()
  await server.close()
  await removeProfiles()
})

/**
 * Run a function in the page, where the package's exports and a loaded `transcriber` are global; return what it returns, or
 * its error as a text.
 * @template T
 * @param {(found: Package & {transcriber: import('../src/client/index.js').TranscriberClient}, name: string) => T | Promise<T>} body
 * @returns {Promise<any>}
 */
const inPage = (body) =>
  page.evaluate(`(${body})(globalThis, ${JSON.stringify(`/samples/${CLIP}`)}).then((value) => value, (error) => 'thrown ' + error)`)

test('a recording is transcribed, whatever holds it', async () => {
  const { text, segments } = (await pythonTranscripts())[CLIP]
  const found = await inPage(async ({ transcriber, render }, address) => {
    const blob = await (await fetch(address)).blob()
    const buffer = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(await blob.arrayBuffer())
    const samples = (await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await blob.arrayBuffer())).getChannelData(0)
    const recordings = [address, blob, new File([blob], 'a.wav'), buffer, samples]
    const transcripts = await Promise.all(recordings.map((recording) => transcriber.transcribe(recording))) // one after the other
    return { texts: transcripts.map(({ text }) => text), first: transcripts[0], json: render(transcripts[0], 'json'), kept: samples.length > 0 }
  })
  assert.deepEqual(found.texts, new Array(5).fill(text))
  assert.deepEqual(JSON.parse(found.json), found.first)
  assert.deepEqual(found.first.segments.map((/** @type {any} */ s) => [s.start.toFixed(3), s.end.toFixed(3), s.text]), segments)
  assert.ok(found.kept)
})

test('segments come one by one, and a loop that is left ends the recording', async () => {
  const { segments } = (await pythonTranscripts())[CLIP]
  const found = await inPage(async ({ transcriber }, address) => {
    const all = []
    for await (const { text } of transcriber.transcribe(address)) all.push(text)
    const left = transcriber.transcribe('/samples/long-mixed.wav')
    for await (const _ of left) break
    const { duration, segments } = await left
    return { all, duration, count: segments.length }
  })
  assert.deepEqual(found.all, segments.map(([, , text]) => text))
  assert.ok(found.duration < 20 && found.count > 0, JSON.stringify(found))
})

test('an AbortSignal ends it, and the next recording is transcribed', async () => {
  const { text } = (await pythonTranscripts())[CLIP]
  const found = await inPage(async ({ transcriber, createTranscriber }, address) => {
    const stops = new AbortController()
    const aborted = transcriber.transcribe('/samples/long-mixed.wav', { signal: stops.signal })
    transcriber.addEventListener('segment', () => stops.abort(new Error('enough')), { once: true })
    const errors = /** @type {unknown[]} */ ([await aborted.catch(String)])
    const loading = createTranscriber({ artifactUrl: '/artifact/', signal: AbortSignal.timeout(1) })
    errors.push(await loading.catch(({ name }) => name))
    errors.push(await createTranscriber({ artifactUrl: '/artifact/', signal: AbortSignal.abort('no') }).catch(String))
    return { errors, text: (await transcriber.transcribe(address)).text }
  })
  assert.deepEqual(found, { errors: ['Error: enough', 'TimeoutError', 'no'], text })
})

test('live sound of a microphone and of an element is transcribed until it ends', async () => {
  const found = await inPage(async ({ transcriber }, address) => {
    const media = await navigator.mediaDevices.getUserMedia({ audio: true })
    let level = 0
    const captions = transcriber.listen(media, { onLevel: (peak) => (level = Math.max(level, peak)) })
    const busy = await Promise.all([transcriber.listen(media).catch(String), transcriber.transcribe(address).catch(String)])
    const spoken = []
    for await (const { text } of captions) {
      spoken.push(text)
      if (spoken.length === 3) for (const track of media.getTracks()) track.stop()
    }
    const { text, duration } = await captions
    const audio = new Audio(URL.createObjectURL(await (await fetch(address)).blob()))
    await audio.play()
    const element = await transcriber.listen(/** @type {any} */ (audio).captureStream()) // its track ends with the clip
    return { busy, spoken: spoken.join('').trim() === text, level, duration, element: element.text }
  })
  assert.ok(found.spoken && found.level > 0.1 && found.duration > 1, JSON.stringify(found))
  assert.match(found.element, /zero eight/)
  for (const sentence of found.busy) assert.match(sentence, /UsageError: (listen|transcribe): another transcription runs; await it, or call its stop/)
})

test('the element captions the microphone', async () => {
  await page.evaluate(() => void import(/** @type {any} */ ('/src/client/element.js')))
  const element = page.locator('voxtral-captions')
  await element.locator('button').waitFor()
  assert.deepEqual(await violations(page), [])
  await element.locator('button').click()
  await page.waitForFunction(() => document.querySelector('voxtral-captions')?.shadowRoot?.querySelector('[part=text]')?.textContent?.includes('zero eight'))
  await shoot(page, 'element')
  assert.deepEqual(await violations(page), [])
  const transcript = page.evaluate(() => new Promise((resolve) => {
    document.querySelector('voxtral-captions')?.addEventListener('transcript', (event) => resolve(/** @type {CustomEvent} */ (event).detail.text))
  }))
  await element.locator('button').click()
  const said = await transcript
  assert.equal((await element.locator('[part=text]').textContent())?.trim(), said)
  assert.equal((await element.locator('button').innerText()).trim(), 'Start captions')
})

test('mistakes are sentences that say what to do', async () => {
  await page.route('**/app/artifact/*', (route) => route.fulfill({ contentType: 'text/html', body: HTML }))
  await page.route('**/half/**', async (route) => {
    const name = route.request().url().split('/half/')[1]
    if (name.endsWith('.json')) await route.fulfill({ body: await readFile(path.join(ARTIFACT, name)) })
    else await route.fulfill({ contentType: 'text/html; charset=utf-8', body: HTML })
  })
  const mistakes = await inPage(async ({ createTranscriber, transcriber, render, TranscriberClient }, address) => {
    const create = /** @type {any} */ (createTranscriber)
    const client = /** @type {any} */ (transcriber)
    const buffer = new AudioBuffer({ length: 100, sampleRate: 16000 })
    const closed = await createTranscriber({ artifactUrl: '/artifact/' })
    const before = closed.transcribe('/samples/long-mixed.wav')
    await new Promise((resolve) => closed.addEventListener('segment', resolve, { once: true }))
    closed.close()
    before.catch(() => {})
    const fresh = new TranscriberClient()
    const calls = [
      () => create(),
      () => create({ artifactUrl: 7 }),
      () => create({ files: [new File([], 'a')] }),
      () => create({ artifactUrl: '/artifact/', device: 'gpu' }),
      () => create({ artifactUrl: '/artifact/', device: 'wasm', precision: 'q5' }),
      () => create({ artifactUrl: '/artifact/', device: 'wasm', precision: 'q4f16' }),
      () => create({ artifactUrl: '/app/artifact/' }),
      () => client.remove().then(() => create({ artifactUrl: '/half/' })),
      () => client.feed(buffer),
      () => client.feed(new Int16Array(10)),
      () => client.transcribe(undefined),
      () => client.transcribe('/nothing.wav'),
      () => client.listen(document.createElement('video')),
      () => client.listen(new MediaStream()),
      async () => render(await client.transcribe(address), 'doc'),
      () => before,
      () => closed.transcribe(address),
      () => closed.start(),
      () => fresh.transcribe(address),
    ]
    const said = []
    for (const call of calls) said.push(await Promise.resolve(call()).then(() => 'nothing was wrong', String))
    return said
  })
  const expected = [
    /^UsageError: artifactUrl: expected the address of an exported model, as in createTranscriber\(.*got nothing; to export one, run: voxtral-onnx export/,
    /^UsageError: artifactUrl: .*got 7/,
    /^UsageError: files: expected a Map from path to File, got Array; make one/,
    /^UsageError: device: expected 'webgpu' or 'wasm', got "gpu"; leave it out/,
    /^UsageError: precision: this model is served in .*q4.*, got "q5"; take one of these/,
    /^DeviceError: this page offers q4f16, q4.*, and q4f16 does not run here: WebAssembly computes in float32; take q4/,
    /^ArtifactError: .*\/app\/artifact\/voxtral_onnx\.json: expected a file of the model, got a web page, as hosts of apps send/,
    /^ArtifactError: .*\/half\/.*: expected a file of the model, got a web page/,
    /^AudioError: feed: expected a Float32Array of mono samples at 16000 Hz .* got AudioBuffer; transcribe takes files, addresses and AudioBuffers/,
    /^AudioError: feed: .* got Int16Array/,
    /^AudioError: expected a File or Blob, .* got nothing; take the file of an input element: input\.files\[0\]/,
    /^AudioError: \/nothing\.wav: the server answered 404; check the address/,
    /^AudioError: listen: expected a MediaStream, got HTMLVideoElement; take one of/,
    /^AudioError: listen: the media stream has no sound/,
    /^UsageError: render: expected one of txt, srt, vtt, json, got "doc"/,
    /^UsageError: the transcriber is closed; create another/,
    /^UsageError: the transcriber is closed; create another/,
    /^UsageError: the transcriber is closed; create another/,
    /^UsageError: transcribe: no model is loaded; await createTranscriber, or open/,
  ]
  assert.equal(mistakes.length, expected.length, String(mistakes))
  for (const [i, pattern] of expected.entries()) assert.match(mistakes[i], pattern)
})
