/** A test of transformers.js in a headless Chromium: the first tokens of a clip, on a software WebGPU adapter. */

import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { chromium } from 'playwright-core'
import { ARTIFACT, WEB, clip, pythonTranscripts } from './samples.js'
import { TestServer } from './server.js'

const CLIP = 'digits-espeak.wav'
const PATIENCE = Number(process.env.PATIENCE ?? 240_000) // milliseconds, enough on a busy machine with two cores
const NUM_TOKENS = 5 // to the first word; software takes seconds for each
const SURE = 0.05 // margin of the best logit above which rounding in other kernels does not change the token
const FLAGS = ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-dev-shm-usage']
const SWIFTSHADER = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan', '--use-vulkan=swiftshader']

const own = createRequire(path.join(process.env.PACKAGES ?? WEB, 'package.json'))
const transformers = path.dirname(own.resolve('@huggingface/transformers'))
const theirs = createRequire(path.join(transformers, 'index.js'))
const PAGE = `<!doctype html><script type="importmap">${JSON.stringify({
  imports: {
    '@huggingface/transformers': '/transformers/transformers.web.js',
    'onnxruntime-web/webgpu': '/onnxruntime/ort.webgpu.bundle.min.mjs',
    'onnxruntime-common': '/common/esm/index.js',
  },
})}</script>`

/** @type {TestServer} */
let server
/** @type {import('playwright-core').BrowserContext} */
let browser
/** @type {string} */
let profile

before(async () => {
  server = await new TestServer({
    '/artifact/': ARTIFACT,
    '/examples/': path.join(WEB, '../examples'),
    '/transformers/': transformers,
    '/onnxruntime/': path.dirname(theirs.resolve('onnxruntime-web/webgpu')),
    '/common/': path.join(path.dirname(theirs.resolve('onnxruntime-common')), '..'),
  }).listen()
  server.files.set('/page.html', Buffer.from(PAGE))
  profile = await mkdtemp(path.join(tmpdir(), 'voxtral-onnx-browser-'))
  browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: false, // the flag --headless=new above
    args: [...FLAGS, ...SWIFTSHADER],
  })
})
after(async () => {
  await browser?.close()
  await server?.close()
  if (profile) await rm(profile, { recursive: true, force: true })
})

test('transformers.js on WebGPU', { timeout: PATIENCE }, async () => {
  const page = await browser.newPage()
  await page.goto(`${server.url}page.html`)
  const { ids, text } = await page.evaluate(
    async ({ samples, max_new_tokens, name, example }) => {
      const { env, VoxtralRealtimeForConditionalGeneration, VoxtralRealtimeProcessor } = await import(name)
      Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: '/' })
      env.backends.onnx.wasm.wasmPaths = '/onnxruntime/'
      const processor = await VoxtralRealtimeProcessor.from_pretrained('artifact')
      const model = await VoxtralRealtimeForConditionalGeneration.from_pretrained('artifact', { dtype: 'q4', device: 'webgpu' })
      const { transcribe } = await import(example)
      const ids = await transcribe({ processor, model }, Float32Array.from(samples), { max_new_tokens })
      return { ids, text: processor.tokenizer.decode(ids, { skip_special_tokens: true }) }
    },
    { samples: Array.from(await clip(CLIP)), max_new_tokens: NUM_TOKENS, name: '@huggingface/transformers', example: '/examples/transformers_js.mjs' },
  )
  const expected = (await pythonTranscripts())[CLIP]
  assert.equal(ids.length, NUM_TOKENS)
  const at = ids.findIndex((/** @type {number} */ id, /** @type {number} */ i) => id !== expected.ids[i])
  assert.ok(at < 0 || expected.margins[at] < SURE, `token ${at}: expected ${expected.ids[at]}, got ${ids[at]}`)
  if (at < 0) assert.ok(expected.text.startsWith(text.trim()) && text.trim(), text)
})
