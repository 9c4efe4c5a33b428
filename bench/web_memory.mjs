/**
 * A benchmark of memory and time while a browser downloads an artifact and makes its sessions.
 *
 *     node bench/web_memory.mjs ARTIFACT PRECISION [PROFILE]
 *
 * Reads every 100 ms the JavaScript heaps of the page and its worker with the buffers that they hold, through DevTools, and
 * the anonymous memory of the page's process, which includes them. Sessions are made on SwiftShader, which emulates a GPU in
 * another process; it has no float16, so of such precisions only the download is measured. PROFILE is a folder for the
 * browser's files. Needs `make web` and Chromium. Writes the precision's entry of results/web_memory.json.
 */

import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import path from 'node:path'
import { chromium } from '../web/node_modules/playwright-core/index.mjs'
import { SWIFTSHADER } from '../web/test/browser.js'
import { TestServer } from '../web/test/server.js'

const [folder, precision, parent = tmpdir()] = process.argv.slice(2)
const server = await new TestServer({ '/artifact/': path.resolve(folder), '/': path.join(import.meta.dirname, '../web') }).listen()
server.files.set('/blank.html', Buffer.from('<!doctype html><title>blank</title>'))
const profile = await mkdtemp(path.join(parent, 'voxtral-onnx-bench-'))
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: false,
  args: ['--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--js-flags=--expose-gc', ...SWIFTSHADER],
})
try {
  const page = await browser.newPage()
  await page.goto(`${server.url}blank.html`)
  const before = anonymousMegabytes()
  const heaps = await heapsOf(page)
  const first = await sampled(heaps, () => visit(page))
  const second = await visit(page)
  const isFloat16 = JSON.parse(readFileSync(path.join(folder, 'voxtral_onnx.json'), 'utf8')).precisions[precision].activation_dtype === 'float16'
  const result = {
    machine: `${cpus().length} cores of ${cpus()[0].model}`,
    browser: await page.evaluate(() => navigator.userAgent.replace(/.*(Chrome\/\d+).*/, '$1')),
    page_process_mb_before: Math.round(before),
    megabytes: Math.round(first.value.bytes / 1e6),
    download: first.memory,
    second_visit_seconds: Number(second.seconds.toFixed(2)),
    sessions: isFloat16 ? 'not made: software adapters have no float16' : (await sampled(heaps, () => load(page))).memory,
  }
  const file = path.join(import.meta.dirname, 'results/web_memory.json')
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), [precision]: result }, null, 1) + '\n')
  console.log(result)
} finally {
  await browser.close()
  await server.close()
  await rm(profile, { recursive: true, force: true })
}

/**
 * Run an action; return its value, and the peak memory while it ran.
 * @param {() => Promise<number>} heaps
 * @param {() => Promise<any>} action
 */
async function sampled(heaps, action) {
  const began = performance.now()
  let [processPeak, heapPeak, samples] = [0, 0, 0]
  const sampling = setInterval(async () => {
    processPeak = Math.max(processPeak, anonymousMegabytes())
    heapPeak = Math.max(heapPeak, await heaps().catch(() => 0)) // the page may have closed
    samples += 1
  }, 100)
  try {
    const value = await action()
    const seconds = Math.round((performance.now() - began) / 1000)
    const [process, heap] = [processPeak, heapPeak].map(Math.round)
    return { value, memory: { seconds, page_process_mb_peak: process, javascript_heap_mb_peak: heap, samples } }
  } finally {
    clearInterval(sampling)
  }
}

/** Make the sessions of the downloaded model. */
function load(page) {
  return page.evaluate(
    async ({ url, precision }) => {
      const { createTranscriber } = await import(`${url}src/client/index.js`)
      const transcriber = await createTranscriber({ artifactUrl: `${url}artifact/`, device: 'webgpu', precision })
      transcriber.close()
    },
    { url: server.url, precision },
  )
}

/** Download the missing files and read them as the Blobs that sessions are made from. */
function visit(page) {
  return page.evaluate(
    async ({ url, precision }) => {
      const source = `
        const { RemoteArtifact } = await import('${url}src/engine/artifact.js')
        const { openStore } = await import('${url}src/engine/store.js')
        const began = performance.now()
        try {
          const artifact = await RemoteArtifact.open('${url}artifact/', await openStore())
          await artifact.fetch('${precision}', () => {})
          let bytes = 0
          for (const name of artifact.manifest.filesOf('${precision}').keys()) bytes += (await artifact.readFile(name)).size
          postMessage({ bytes, seconds: (performance.now() - began) / 1000 })
        } catch (error) {
          postMessage({ error: String(error) })
        }`
      const worker = new Worker(URL.createObjectURL(new Blob([source], { type: 'text/javascript' })), { type: 'module' })
      const result = await new Promise((resolve) => (worker.onmessage = ({ data }) => resolve(data)))
      worker.terminate()
      if (result.error) throw new Error(result.error)
      return result
    },
    { url: server.url, precision },
  )
}

/**
 * Return a function that reads the megabytes of the JavaScript heaps of a page and its workers, with their buffers.
 * @returns {Promise<() => Promise<number>>}
 */
async function heapsOf(page) {
  const devtools = await browser.newCDPSession(page)
  const workers = new Map() // megabytes by session
  const message = JSON.stringify({ id: 1, method: 'Runtime.getHeapUsage' })
  const megabytes = ({ usedSize, backingStorageSize }) => (usedSize + backingStorageSize) / 1e6
  devtools.on('Target.attachedToTarget', ({ sessionId }) => workers.set(sessionId, 0))
  devtools.on('Target.detachedFromTarget', ({ sessionId }) => workers.delete(sessionId))
  devtools.on('Target.receivedMessageFromTarget', ({ sessionId, message }) => {
    const { result } = JSON.parse(message)
    if (result) workers.set(sessionId, megabytes(result))
  })
  await devtools.send('Target.setAutoAttach', { autoAttach: true, waitForDebuggerOnStart: false })
  return async () => {
    for (const sessionId of workers.keys()) {
      await devtools.send('Target.sendMessageToTarget', { sessionId, message }).catch(() => {}) // a worker that has ended
    }
    const own = megabytes(await devtools.send('Runtime.getHeapUsage'))
    return [...workers.values()].reduce((sum, worker) => sum + worker, own)
  }
}

/** Return the anonymous memory of this browser's largest page process, in megabytes. */
function anonymousMegabytes() {
  let most = 0
  for (const id of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const command = readFileSync(`/proc/${id}/cmdline`, 'utf8')
      if (!command.includes('--type=renderer') || !command.includes(path.basename(profile))) continue
      const [, kilobytes] = /RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${id}/status`, 'utf8')) ?? []
      most = Math.max(most, Number(kilobytes) / 1000)
    } catch {
      continue // a process that ended
    }
  }
  return most
}
