/** Tests of the page and the engine in a headless Chromium: in WebAssembly, and with WebGPU on a software adapter. */

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { PIECE_SIZE } from '../src/engine/manifest.js'
import { CLIP, NO_GPU, SWIFTSHADER, failure, launch, microphone, removeProfiles, shoot, text, violations, waitForWords } from './browser.js'
import { ARTIFACT, SAMPLES, WEB, certificate, clip, pythonTranscripts } from './samples.js'
import { TestServer } from './server.js'

/** @type {TestServer} */
let server

before(async () => {
  server = await new TestServer({ '/artifact/': ARTIFACT, '/samples/': SAMPLES, '/': WEB }).listen()
  server.files.set('/blank.html', Buffer.from('<!doctype html><title>blank</title>'))
})
after(async () => {
  await server.close()
  await removeProfiles()
})

test('the page, without WebGPU', async (t) => {
  const expected = (await pythonTranscripts())[CLIP]
  const stranger = await new TestServer({ '/': ARTIFACT }).listen()
  const browser = await launch([...NO_GPU, ...microphone(false)])
  const page = await browser.newPage()
  /** @type {string[]} */
  const problems = []
  page.on('pageerror', (error) => problems.push(String(error)))
  page.on('console', (message) => void (/Content Security Policy/.test(message.text()) && problems.push(message.text())))
  try {
    await t.test('says what it will download, and downloads nothing before a click', async () => {
      await page.goto(`${server.url}`)
      await page.waitForSelector('#load:not([hidden])')
      assert.match((await page.textContent('#what')) ?? '', /^The model runs in precision q4 on the CPU \(WebAssembly\): \d+ MB to download\.$/)
      assert.match((await page.textContent('#notes')) ?? '', /Running on the CPU in WebAssembly: .*WebGPU/)
      assert.ok(!server.requests.some(({ path }) => path.includes('onnx_data')))
      assert.deepEqual(await violations(page), [])
      await shoot(page, 'first-visit')
    })
    await t.test('a file becomes an srt, by keyboard alone', async () => {
      await page.focus('#load')
      await page.keyboard.press('Enter')
      await page.waitForSelector('#listen:not([hidden])')
      assert.match((await page.textContent('#what')) ?? '', /already on this computer\.$/)
      assert.match((await page.textContent('#notes')) ?? '', /Not self-tested: this model has no valid certificate; .* verify ARTIFACT\.$/)
      assert.equal(await page.textContent('#delay-value'), '480 ms')
      await page.focus('#file')
      const opened = page.waitForEvent('filechooser')
      await page.keyboard.press('Space')
      // A busy machine's Chromium may open no dialog for the first key
      const again = setTimeout(() => page.keyboard.press('Space').catch(() => {}), 20_000)
      const chooser = await opened
      clearTimeout(again)
      await chooser.setFiles(path.join(SAMPLES, CLIP))
      await waitForWords(page, expected.segments.length)
      assert.equal(await text(page), expected.text)
      await page.focus('[data-format=srt]')
      const [download] = await Promise.all([page.waitForEvent('download'), page.keyboard.press('Enter')])
      const srt = await readFile(await download.path(), 'utf8')
      assert.match(srt, /^1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n/)
      assert.deepEqual(srt.split('\n').filter((line) => /^[a-z]/.test(line)).join(' '), expected.text)
      assert.deepEqual(await violations(page), [])
      await shoot(page, 'light')
      await page.emulateMedia({ colorScheme: 'dark' })
      assert.deepEqual(await violations(page), [])
      await shoot(page, 'dark')
      await page.setViewportSize({ width: 390, height: 844 })
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth), 'it scrolls sideways')
      await shoot(page, 'phone')
    })
    await t.test('a second visit without a network has the model and the text', async () => {
      await page.waitForFunction(() => navigator.serviceWorker.controller)
      server.requests.length = 0
      await browser.setOffline(true)
      try {
        await page.reload()
        await page.waitForSelector('#listen:not([hidden])')
        assert.match((await page.textContent('#what')) ?? '', /already on this computer/)
        assert.equal(await text(page), expected.text)
        assert.deepEqual(await copyGraphs(page), await shippedGraphs())
        assert.deepEqual(server.requests.filter(({ path }) => path !== '/sw.js'), []) // which the browser asks for by itself
      } finally {
        await browser.setOffline(false)
      }
    })
    await t.test('a microphone is transcribed while it speaks, with a pause button and a meter', async () => {
      await page.click('#clear')
      assert.equal(await text(page), '')
      await page.click('#microphone')
      await waitForWords(page, 2)
      await shoot(page, 'microphone')
      assert.ok(await page.isEnabled('#pause'))
      await page.click('#microphone')
      await page.waitForFunction(() => document.querySelector('#microphone')?.textContent === 'Start the microphone')
      await waitForWords(page, 3)
      assert.match(await text(page), /zero eight/)
      assert.match((await page.textContent('#meter')) ?? '', /^[\d.]+ s of audio, [\d.]+ s behind, real-time factor [\d.]+, latency \d+ ms/)
    })
    await t.test('failures are sentences with a next step', async () => {
      await page.setInputFiles('#file', { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('no sound') })
      assert.match(await failure(page), /notes\.txt: the browser cannot decode it; convert it to WAV/)
      await shoot(page, 'error-file')
      await page.setInputFiles('#file', path.join(SAMPLES, 'long-mixed.wav'))
      await page.waitForFunction(() => document.querySelector('#microphone')?.textContent === 'Stop')
      await page.setInputFiles('#file', path.join(SAMPLES, CLIP))
      assert.match(await failure(page), /another recording is being transcribed; wait until it ends, or press Stop/)
      await page.click('#microphone')
      await page.waitForFunction(() => document.querySelector('#microphone')?.textContent === 'Start the microphone')
      await page.click('#remove')
      await page.waitForSelector('#load:not([hidden])')
      await page.goto(`${server.url}?artifact=nothing/`)
      assert.match(await failure(page), /the server answered 404; check the artifact's address/)
      await shoot(page, 'error-artifact')
      await page.goto(`${server.url}?device=webgpu`)
      assert.match(await failure(page), /WebGPU/)
      await shoot(page, 'error-webgpu')
    })
    await t.test('a model that passes its self-test says so, one that does not is refused', async () => {
      const manifest = await readFile(path.join(ARTIFACT, 'voxtral_onnx.json'), 'utf8')
      server.files.set('/artifact/certificate.json', Buffer.from(await certificate(manifest)))
      await page.goto(`${server.url}`)
      await page.click('#load')
      await page.waitForSelector('#listen:not([hidden])')
      assert.match((await page.textContent('#what')) ?? '', /already on this computer, self-tested against its maker’s certificate\.$/)
      assert.doesNotMatch((await page.textContent('#notes')) ?? '', /not self-tested/i)
      await browser.setOffline(true) // the certificate and the clip are kept
      await page.reload()
      await page.waitForSelector('#listen:not([hidden])')
      assert.match((await page.textContent('#what')) ?? '', /already on this computer, self-tested against its maker’s certificate\.$/)
      await browser.setOffline(false)
      server.files.set('/artifact/certificate.json', Buffer.from(await certificate(manifest, 1)))
      await page.reload()
      assert.match(await failure(page), /the self-test failed: \d+ of the \d+ tokens .*; update the browser and the graphics driver/)
      assert.equal(await page.isHidden('#listen'), true)
      await shoot(page, 'error-self-test')
      server.files.delete('/artifact/certificate.json')
    })
    await t.test('the minimal page transcribes a file', async () => {
      await page.goto(`${server.url}minimal.html`)
      await page.setInputFiles('#file', path.join(SAMPLES, CLIP))
      await page.waitForFunction(() => document.querySelector('#state')?.textContent === 'done')
      assert.equal(await page.textContent('#text'), expected.text)
    })
    assert.deepEqual(problems, [])
    await t.test('a stranger’s link loads no model', async () => {
      for (const [asked, sentence] of [
        [stranger.url, /the link asks for a model from http:\/\/localhost:\d+, but this page loads models from its own site/],
        ['data:application/json,{}', /the link's model address is not an http or https address, or holds a password/],
        [`http://name:word@${new URL(`${server.url}`).host}/artifact/`, /holds a password/],
      ]) {
        await page.goto(`${server.url}?artifact=${encodeURIComponent(`${asked}`)}`)
        assert.match(await failure(page), /** @type {RegExp} */ (sentence))
        assert.equal(await page.isHidden('#load'), true)
      }
      await page.goto(`${server.url}?artifact=${encodeURIComponent(`${server.url}artifact/`)}`)
      await page.waitForSelector('#listen:not([hidden])')
    })
    await t.test('the policy holds: no script in a page, no other server asked, by the page or its worker', async () => {
      const blocked = await page.evaluate(async (url) => {
        const broken = /** @type {string[]} */ ([])
        document.addEventListener('securitypolicyviolation', ({ effectiveDirective }) => broken.push(effectiveDirective))
        const script = Object.assign(document.createElement('script'), { textContent: 'globalThis.ran = true' })
        document.body.append(script)
        const image = new Image()
        image.src = `${url}image.png`
        await fetch(url).catch(() => {})
        const engine = await import(/** @type {any} */ ('/src/client/index.js'))
        const client = new engine.TranscriberClient()
        const error = await client.inspect({ artifactUrl: url }).catch(String)
        return { broken: [...new Set(broken)].sort(), ran: 'ran' in globalThis, error }
      }, `${stranger.url}`)
      assert.deepEqual(blocked.broken, ['connect-src', 'img-src', 'script-src-elem'])
      assert.equal(blocked.ran, false)
      assert.match(blocked.error, /cannot be reached/)
    })
    assert.deepEqual(stranger.requests, [])
  } finally {
    await browser.close()
    await stranger.close()
  }
})

test('downloads are kept over closed tabs, and a corrupted byte is refused', async (t) => {
  const content = Buffer.alloc(PIECE_SIZE + 5000)
  for (let i = 0; i < content.length; i++) content[i] = (31 * i) & 255
  const hash = (/** @type {Buffer} */ bytes) => createHash('sha256').update(bytes).digest('hex')
  const pieces = [hash(content.subarray(0, PIECE_SIZE)), hash(content.subarray(PIECE_SIZE))]
  const spec = { size: content.length, sha256: hash(content), pieces }
  const browser = await launch(NO_GPU)
  /** @param {number[]} waits @param {boolean} withoutFiles */
  const download = async (waits, withoutFiles = false) => {
    const page = await browser.newPage()
    await page.goto(`${server.url}blank.html`)
    const worker = withoutFiles
      ? `delete FileSystemFileHandle.prototype.createSyncAccessHandle; await import('${server.url}test/store-worker.js'); postMessage('ready')`
      : `await import('${server.url}test/store-worker.js'); postMessage('ready')`
    const result = await page.evaluate(
      async ({ worker, url, spec, waits }) => {
        const source = URL.createObjectURL(new Blob([worker], { type: 'text/javascript' }))
        const thread = new Worker(source, { type: 'module' })
        const next = () => new Promise((resolve, reject) => Object.assign(thread, { onmessage: (/** @type {any} */ e) => resolve(e.data), onerror: (/** @type {any} */ e) => reject(new Error(e.message)) }))
        await next()
        thread.postMessage({ url, spec, waits })
        return next()
      },
      { worker, url: `${server.url}weights`, spec, waits },
    )
    await page.close() // the tab
    return result
  }
  try {
    for (const withoutFiles of [false, true]) {
      await t.test(withoutFiles ? 'in Cache Storage' : 'in the origin private file system', async () => {
        const damaged = Buffer.from(content)
        damaged[PIECE_SIZE + 7] ^= 1
        server.files.set('/weights', damaged)
        const refused = await download([], withoutFiles)
        assert.equal(refused.name, 'ArtifactError')
        assert.match(refused.message, /bytes from 16777216: expected sha256/)
        assert.equal(refused.size, PIECE_SIZE)

        server.files.set('/weights', content)
        server.cuts.set('/weights', 100)
        const broken = await download([], withoutFiles)
        assert.equal(broken.name, 'StorageError')
        assert.match(broken.message, /was interrupted .* it resumes where it stopped/)

        server.requests.length = 0
        const whole = await download([], withoutFiles)
        assert.deepEqual([whole.kept, whole.fetched, whole.size], [PIECE_SIZE, 5000, content.length])
        assert.equal(server.requests.find(({ path }) => path === '/weights')?.range, `bytes=${PIECE_SIZE}-`)
        assert.equal(whole.store, withoutFiles ? 'Cache Storage' : 'origin private file system')
      })
    }
  } finally {
    await browser.close()
  }
})

test('another version replaces the one that is kept, once it is whole', async () => {
  const browser = await launch(NO_GPU)
  const page = await browser.newPage()
  await page.goto(`${server.url}blank.html`)
  const fetchArtifact = () =>
    page.evaluate(async (url) => {
      const source = `
        const { RemoteArtifact } = await import('${url}src/engine/artifact.js')
        const { openStore } = await import('${url}src/engine/store.js')
        const store = await openStore()
        const artifact = await RemoteArtifact.open('${url}versions', store)
        const error = await artifact.fetch('q4', () => {}).then(() => '', String)
        postMessage({ error, files: await store.list(), record: await store.readRecord(artifact.record) })`
      const worker = new Worker(URL.createObjectURL(new Blob([source], { type: 'text/javascript' })), { type: 'module' })
      return /** @type {Promise<any>} */ (new Promise((resolve) => (worker.onmessage = ({ data }) => resolve(data))))
    }, server.url)
  try {
    const text = await readFile(path.join(ARTIFACT, 'voxtral_onnx.json'), 'utf8')
    const manifest = JSON.parse(text)
    for (const name of Object.keys(manifest.files)) server.files.set(`/versions/${name}`, await readFile(path.join(ARTIFACT, name)))
    server.files.set('/versions/voxtral_onnx.json', Buffer.from(text))
    const first = await fetchArtifact()
    assert.deepEqual([first.error, first.record], ['', text])

    const name = manifest.precisions.q4.decoder.data.at(-1)
    const old = manifest.files[name].sha256
    const changed = Buffer.from(await readFile(path.join(ARTIFACT, name))).fill(1, 0, 9)
    manifest.files[name] = { size: changed.length, sha256: createHash('sha256').update(changed).digest('hex'), pieces: [] }
    server.files.set('/versions/voxtral_onnx.json', Buffer.from(JSON.stringify(manifest)))
    const refused = await fetchArtifact() // the server has the new manifest, but still the old file
    assert.match(refused.error, /ArtifactError: .*expected sha256/)
    assert.equal(refused.record, text)
    assert.ok(refused.files.includes(old))

    server.files.set(`/versions/${name}`, changed)
    server.requests.length = 0
    const second = await fetchArtifact()
    assert.deepEqual([second.error, second.record], ['', JSON.stringify(manifest)])
    const asked = server.requests.map(({ path }) => path).filter((path) => path.startsWith('/versions/'))
    assert.deepEqual(asked, ['/versions/voxtral_onnx.json', `/versions/${name}`])
    assert.deepEqual([second.files.includes(old), second.files.length], [false, first.files.length])
  } finally {
    await browser.close()
  }
})

test('WebGPU gives Python’s tokens, in float32 where the adapter has no float16', async () => {
  const { ids } = (await pythonTranscripts())['command-hibari.wav']
  const browser = await launch(SWIFTSHADER)
  try {
    const page = await browser.newPage()
    await page.goto(`${server.url}blank.html`)
    const shifted = await page.evaluate(async () => {
      const { WebGpu } = await import(/** @type {any} */ ('/src/engine/device.js'))
      const gpu = await (await navigator.gpu.requestAdapter())?.requestDevice()
      const buffers = /** @type {any[]} */ ([])
      const ort = { Tensor: { fromGpuBuffer: (/** @type {any} */ gpuBuffer, /** @type {any} */ { dataType, dims }) => ({ gpuBuffer, type: dataType, dims }) } }
      const device = Object.assign(new WebGpu(ort, false), { gpu })
      const binding = device.bind({})
      const [heads, capacity, width, keep] = [2, 10, 4, 7] // the kept rows overlap the place they go to
      binding.bindState('past', 'present', [1, heads, capacity, width], 'float32', true)
      const { gpuBuffer } = binding.bound[0].input
      gpu?.queue.writeBuffer(gpuBuffer, 0, Float32Array.from({ length: heads * capacity * width }, (_, i) => i))
      binding.shiftRows(keep)
      const staging = /** @type {GPUBuffer} */ (gpu?.createBuffer({ size: gpuBuffer.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST }))
      const encoder = /** @type {GPUCommandEncoder} */ (gpu?.createCommandEncoder())
      encoder.copyBufferToBuffer(gpuBuffer, 0, staging, 0, gpuBuffer.size)
      gpu?.queue.submit([encoder.finish()])
      await staging.mapAsync(GPUMapMode.READ)
      buffers.push(...new Float32Array(staging.getMappedRange()))
      return buffers
    })
    assert.deepEqual(await copyGraphs(page), await shippedGraphs())
    await page.route('**/copy_float32.onnx?no-inline', (route) => route.fulfill({ status: 404 }))
    const missing = await page.evaluate(async () => {
      const { copyGraph } = await import(/** @type {any} */ ('/src/engine/graph-capture.js'))
      return copyGraph('float32').catch(String)
    })
    await page.unrouteAll()
    assert.match(missing, /DeviceError: http.*\/graphs\/copy_float32\.onnx\?no-inline: expected a file of this page, got HTTP 404; reload/)
    const zeros = await page.evaluate(async () => {
      const { openDevice } = await import(/** @type {any} */ ('/src/engine/device.js'))
      const { copyGraph } = await import(/** @type {any} */ ('/src/engine/graph-capture.js'))
      const device = await openDevice('webgpu')
      await device.open(await copyGraph('float32'), [], false)
      const tensor = await device.allocator.zeros([1, 2, 3, 5], 'float32')
      return { location: tensor.location, dims: tensor.dims, values: [...(await tensor.getData())] }
    })
    assert.deepEqual(zeros, { location: 'gpu-buffer', dims: [1, 2, 3, 5], values: new Array(30).fill(0) })
    const rows = (/** @type {number} */ head) => Array.from({ length: 28 }, (_, i) => 40 * head + 12 + i)
    assert.deepEqual([shifted.slice(0, 28), shifted.slice(40, 68)], [rows(0), rows(1)])

    const result = await page.evaluate(
      async (samples) => {
        const { createTranscriber, TranscriberClient } = await import(/** @type {any} */ ('/src/client/index.js'))
        const client = new TranscriberClient()
        const inspection = await client.inspect({ artifactUrl: 'artifact/', device: 'webgpu' })
        const own = await client.inspect({ artifactUrl: 'artifact/' })
        client.close()
        // captured calls take one token each, and software the longer; dawn.test.js has them
        const transcriber = await createTranscriber({ artifactUrl: 'artifact/', device: 'webgpu', graphCapture: false })
        const words = /** @type {number[][]} */ ([])
        transcriber.addEventListener('token', (/** @type {any} */ { detail }) => words.push([detail.index, detail.tokenId]))
        await transcriber.start()
        await transcriber.feed(Float32Array.from(samples)) // not finished: each step takes software a second
        return { inspection, own, words }
      },
      Array.from((await clip('command-hibari.wav')).subarray(0, 1.5 * 16000)),
    )
    assert.deepEqual([result.inspection.deviceName, result.inspection.precision], ['webgpu', 'q4'])
    assert.equal(result.own.deviceName, 'wasm') // faster than a graphics adapter that the browser emulates
    assert.match(result.own.notes.join(' '), /running on the CPU in WebAssembly: this browser emulates the graphics adapter/)
    assert.match(result.inspection.notes.join(' '), /no float16 \(shader-f16\)/)
    const decided = (1.5 * 12.5 - 6) | 0 // tokens, less the delay
    const words = ids.map((/** @type {number} */ id, /** @type {number} */ i) => [i, id]).slice(0, decided)
    assert.deepEqual(result.words, words.filter(([, id]) => id >= 1000))
    assert.ok(result.words.length >= 2)
  } finally {
    await browser.close()
  }
})

const TYPES = ['float16', 'float32']

/** Return the bytes of the graphs that allocate, as the source tree has them. */
const shippedGraphs = () =>
  Promise.all(TYPES.map(async (dtype) => [...(await readFile(path.join(WEB, `src/engine/graphs/copy_${dtype}.onnx`)))]))

/**
 * Return the bytes of the same graphs, as the engine finds them in a page.
 * @param {import('./browser.js').Page} page
 */
const copyGraphs = (page) =>
  page.evaluate(async (types) => {
    const { copyGraph } = await import(/** @type {any} */ ('/src/engine/graph-capture.js'))
    return Promise.all(types.map(async (dtype) => [...(await copyGraph(dtype))]))
  }, TYPES)
