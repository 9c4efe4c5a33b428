/** Tests of the npm package as strangers install it: packed, built into apps by bundlers, transcribing in Chromium. */

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import webpack from 'webpack'
import { NO_GPU, launch, microphone, removeProfiles } from './browser.js'
import { ARTIFACT, WEB } from './samples.js'
import { TestServer } from './server.js'

const run = promisify(execFile)
const PACKAGE = path.join(WEB, '../build/npm')
/** @type {string} */
let app

before(async () => {
  app = await mkdtemp(path.join(tmpdir(), 'voxtral-onnx-app-'))
  await run(process.execPath, [path.join(WEB, 'package.mjs')])
  await run('npm', ['pack', '--pack-destination', app, PACKAGE])
  await cp(path.join(WEB, '../examples/captions'), app, { recursive: true })
  await writeFile(path.join(app, 'package.json'), '{"type": "module", "private": true}')
  const [tarball] = (await readdir(app)).filter((name) => name.endsWith('.tgz'))
  await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', `./${tarball}`], { cwd: app })
})
after(async () => {
  await rm(app, { recursive: true, force: true })
  await removeProfiles()
})

test('npm would publish it', async () => {
  const { stderr } = await run('npm', ['publish', '--dry-run', PACKAGE])
  assert.match(stderr, /voxtral-onnx-web@/)
  assert.doesNotMatch(stderr, /auto-corrected/) // what npm says of a package.json that it has to mend
  const manifest = JSON.parse(await readFile(path.join(PACKAGE, 'package.json'), 'utf8'))
  assert.match(await readFile(path.join(WEB, '../_version.py'), 'utf8'), new RegExp(`"${manifest.version}"`))
  assert.ok((await readdir(PACKAGE)).includes('LICENSE'))
})

test('addresses of scripts and files are literals, which bundlers find', async () => {
  const files = (await readdir(path.join(PACKAGE, 'src'), { recursive: true })).filter((name) => name.endsWith('.js'))
  const lines = (await Promise.all(files.map((name) => readFile(path.join(PACKAGE, 'src', name), 'utf8')))).join('\n').split('\n')
  const addresses = lines.filter((line) => line.includes('import.meta.url'))
  assert.ok(addresses.length > 9)
  assert.deepEqual(addresses.filter((line) => !/new URL\('[^'$]+', import\.meta\.url\)/.test(line)), [])
  assert.deepEqual(lines.filter((line) => /\bimport\((?!'[^']+'\))/.test(line)), [])
})

test('Vite builds it', async () => {
  await run(process.execPath, [path.join(WEB, 'node_modules/vite/bin/vite.js'), 'build'], { cwd: app })
  await captions(path.join(app, 'dist'))
})

test('webpack builds it', async () => {
  const output = path.join(app, 'webpack')
  const compiler = webpack({ mode: 'production', context: app, entry: './main.js', output: { path: output }, performance: false })
  const stats = await promisify(compiler.run.bind(compiler))()
  assert.deepEqual(stats?.toJson({ all: false, errors: true, warnings: true }), { errors: [], warnings: [] })
  const page = await readFile(path.join(app, 'index.html'), 'utf8')
  await writeFile(path.join(output, 'index.html'), page)
  await captions(output)
})

test('its vendored form runs in a page that nothing built', async () => {
  const folder = path.join(app, 'plain')
  const script = path.join(app, 'node_modules/.bin/voxtral-onnx-web')
  await run(script, [path.join(folder, 'voxtral')])
  await assert.rejects(run(script, [path.join(folder, 'voxtral')]), /expected a new or empty folder, found files in it/)
  for (const name of ['index.html', 'main.js']) {
    const source = await readFile(path.join(app, name), 'utf8')
    await writeFile(path.join(folder, name), source.replace("'voxtral-onnx-web'", "'./voxtral/src/client/index.js'"))
  }
  await captions(folder)
})

test('a strict TypeScript program compiles against it', async () => {
  await cp(path.join(WEB, 'test/consumer'), app, { recursive: true })
  const options = ['--strict', '--noEmit', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--lib', 'ES2022,DOM,DOM.AsyncIterable']
  const modules = ['--module', 'ESNext', '--moduleResolution', 'bundler', '--target', 'ES2022']
  const compiler = path.join(WEB, 'node_modules/typescript/bin/tsc')
  await run(process.execPath, [compiler, ...options, ...modules, 'consumer.ts'], { cwd: app }).catch(({ stdout }) => assert.fail(stdout))
})

/**
 * Check that a built app captions a microphone, with and without cross-origin isolation.
 * @param {string} folder
 */
async function captions(folder) {
  for (const isIsolated of [true, false]) {
    const server = await new TestServer({ '/artifact/': ARTIFACT, '/': folder }, isIsolated).listen()
    const browser = await launch([...NO_GPU, ...microphone(false)])
    const page = await browser.newPage()
    try {
      await page.goto(`${server.url}`)
      assert.equal(await page.evaluate(() => crossOriginIsolated), isIsolated)
      await page.click('button')
      await page.waitForFunction(() => /zero eight/.test(document.querySelector('#captions')?.textContent ?? ''))
      await page.click('button')
      await page.waitForFunction(() => document.querySelector('#state')?.textContent === 'stopped')
      assert.deepEqual(server.requests.filter(({ path }) => path.startsWith('/samples')), []) // the package has its own clip
    } finally {
      await browser.close()
      await server.close()
    }
  }
}
