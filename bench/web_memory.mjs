/**
 * Memory and time of a browser that downloads an artifact: node bench/web_memory.mjs ARTIFACT PRECISION [PROFILE]
 * writes bench/results/web_memory.json. Anonymous memory of the page's process, every 100 ms, is more than its JavaScript
 * heap. No session is made: software adapters have no float16. Needs `make web` and Chromium.
 */

import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import path from 'node:path'
import { chromium } from '../web/node_modules/playwright-core/index.mjs'
import { TestServer } from '../web/test/server.js'

const [folder, precision, parent = tmpdir()] = process.argv.slice(2)
const server = await new TestServer({ '/artifact/': path.resolve(folder), '/': path.join(import.meta.dirname, '../web') }).listen()
server.files.set('/blank.html', Buffer.from('<!doctype html><title>blank</title>'))
const profile = await mkdtemp(path.join(parent, 'voxtral-onnx-bench-'))
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: false,
  args: ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--js-flags=--expose-gc'],
})
try {
  const page = await browser.newPage()
  await page.goto(`${server.url}blank.html`)
  const before = anonymousMegabytes()
  let peak = 0
  const sampling = setInterval(() => (peak = Math.max(peak, anonymousMegabytes())), 100)
  const first = await visit(page)
  clearInterval(sampling)
  const second = await visit(page)
  const result = {
    machine: `${cpus().length} cores of ${cpus()[0].model}`,
    browser: await page.evaluate(() => navigator.userAgent.replace(/.*(Chrome\/\d+).*/, '$1')),
    precision,
    megabytes: Math.round(first.bytes / 1e6),
    download_seconds: Math.round(first.seconds),
    page_process_mb_before: Math.round(before),
    page_process_mb_peak: Math.round(peak),
    second_visit_seconds: Number(second.seconds.toFixed(2)),
  }
  writeFileSync(path.join(import.meta.dirname, 'results/web_memory.json'), JSON.stringify(result, null, 1) + '\n')
  console.log(result)
} finally {
  await browser.close()
  await server.close()
  await rm(profile, { recursive: true, force: true })
}

/** Download what is missing, up to the Blobs that a session is made of. */
function visit(page) {
  return page.evaluate(
    async ({ url, precision }) => {
      const source = `
        const { RemoteArtifact } = await import('${url}src/artifact.js')
        const { openStore } = await import('${url}src/store.js')
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

/** Of the largest page process of this profile. */
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
