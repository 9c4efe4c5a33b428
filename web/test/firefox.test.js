/**
 * A test in a headless Firefox, over WebDriver BiDi: it asks its user whether a page may keep downloads, and nobody answers.
 */

import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import puppeteer from 'puppeteer-core'
import { CLIP, PATIENCE } from './browser.js'
import { ARTIFACT, SAMPLES, WEB, pythonTranscripts } from './samples.js'
import { TestServer } from './server.js'

test('the minimal page transcribes a file while the question for storage is open', async () => {
  const server = await new TestServer({ '/artifact/': ARTIFACT, '/': WEB }).listen()
  const profile = await mkdtemp(path.join(tmpdir(), 'voxtral-onnx-firefox-'))
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
    headless: true,
    userDataDir: profile,
    protocolTimeout: PATIENCE,
    timeout: PATIENCE,
  })
  try {
    const page = await browser.newPage()
    page.setDefaultTimeout(PATIENCE)
    await page.goto(`${server.url}minimal.html`)
    const asked = await page.evaluate(() => Promise.race([navigator.storage.persist(), new Promise((ok) => setTimeout(ok, 2000, 'open'))]))
    assert.equal(asked, 'open')
    const input = /** @type {import('puppeteer-core').ElementHandle<HTMLInputElement>} */ (await page.$('#file'))
    await input.uploadFile(path.join(SAMPLES, CLIP))
    await page.waitForFunction(() => document.querySelector('#state')?.textContent === 'done')
    assert.equal(await page.$eval('#text', (text) => text.textContent), (await pythonTranscripts())[CLIP].text)
  } finally {
    await browser.close()
    await server.close()
    await rm(profile, { recursive: true, force: true })
  }
})
