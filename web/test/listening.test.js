/** Tests of the microphone and of downloads in use: refused, paused, in a hidden tab, on a full disk, dropped. */

import assert from 'node:assert/strict'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { CLIP, NO_GPU, failure, launch, microphone, removeProfiles, shoot, text, violations, waitForWords } from './browser.js'
import { ARTIFACT, SAMPLES, WEB, pythonTranscripts } from './samples.js'
import { TestServer } from './server.js'

/** @typedef {import('playwright-core').Page} Page */

/** @type {TestServer} */
let server

before(async () => {
  server = await new TestServer({ '/artifact/': ARTIFACT, '/': WEB }).listen()
})
after(async () => {
  await server.close()
  await removeProfiles()
})

/** Return the seconds of audio that the page says it has captured. @param {Page} page */
const captured = async (page) => parseFloat((await page.textContent('#meter')) ?? '')

/**
 * Wait until the page has captured so many seconds of audio.
 * @param {Page} page
 * @param {number} seconds
 */
const waitForSound = (page, seconds) =>
  page.waitForFunction((least) => parseFloat(document.querySelector('#meter')?.textContent ?? '') >= least, seconds)

/** Record the microphones and wake locks that the page requests from the browser. */
function watch() {
  const asked = /** @type {Record<'audio' | 'tracks' | 'locks', any[]>} */ ({ audio: [], tracks: [], locks: [] })
  Object.assign(globalThis, { asked })
  const { mediaDevices, wakeLock } = navigator
  const [getUserMedia, request] = [mediaDevices.getUserMedia.bind(mediaDevices), wakeLock.request.bind(wakeLock)]
  mediaDevices.getUserMedia = async (constraints) => {
    const media = await getUserMedia(constraints)
    asked.audio.push(constraints?.audio)
    asked.tracks.push(media.getAudioTracks()[0])
    return media
  }
  wakeLock.request = async (type) => {
    const lock = await request(type)
    asked.locks.push(lock)
    return lock
  }
}

/**
 * Hide or show a tab as browsers do, which release its wake lock; headless browsers show every tab.
 * @param {Page} page
 * @param {'hidden' | 'visible'} visibility
 */
function show(page, visibility) {
  return page.evaluate(async (visibility) => {
    Object.defineProperty(document, 'visibilityState', { value: visibility, configurable: true })
    if (visibility === 'hidden') for (const lock of /** @type {any} */ (globalThis).asked.locks) await lock.release()
    document.dispatchEvent(new Event('visibilitychange'))
  }, visibility)
}

test('a microphone in use', async (t) => {
  const browser = await launch([...NO_GPU, ...microphone(true)])
  const page = await browser.newPage()
  const locks = () => page.evaluate(() => /** @type {any} */ (globalThis).asked.locks.map((/** @type {any} */ lock) => lock.released))
  try {
    await page.addInitScript(watch)
    await page.goto(`${server.url}`)
    await page.click('#load')
    await page.click('#microphone')
    await waitForWords(page, 1)
    await t.test('a pause takes nothing in, and goes on', async () => {
      await page.click('#pause')
      assert.deepEqual([await page.textContent('#pause'), await page.getAttribute('#pause', 'aria-pressed')], ['Resume', 'true'])
      await page.waitForFunction(() => document.querySelector('#level')?.getAttribute('value') === '0')
      let before = NaN
      while (before !== (before = await captured(page))) await page.waitForTimeout(1000) // what was on its way
      await page.click('#pause')
      await waitForSound(page, before + 1)
      assert.equal(await page.textContent('#pause'), 'Pause')
    })
    await t.test('in a hidden tab it goes on, and the screen is kept awake again when it is seen', async () => {
      assert.deepEqual(await locks(), [false])
      await show(page, 'hidden')
      const [words, seconds] = [(await text(page)).split(' ').length, await captured(page)]
      await waitForWords(page, words + 1)
      await waitForSound(page, seconds + 1)
      assert.deepEqual(await locks(), [true])
      await show(page, 'visible')
      await page.waitForFunction(() => /** @type {any} */ (globalThis).asked.locks.length === 2)
      assert.deepEqual(await locks(), [true, false])
    })
    await t.test('a page that is held up loses nothing', async () => {
      const before = await captured(page)
      const held = 3 // seconds
      await page.evaluate((milliseconds) => {
        for (const until = performance.now() + milliseconds; performance.now() < until; );
      }, 1000 * held)
      await waitForSound(page, before + held)
    })
    await t.test('stopped, it lets go of the device and of the screen', async () => {
      await page.click('#microphone')
      await page.waitForFunction(() => document.querySelector('#microphone')?.textContent === 'Start the microphone')
      assert.deepEqual(await locks(), [true, true])
      assert.deepEqual(await page.evaluate(() => /** @type {any} */ (globalThis).asked.tracks.map((/** @type {any} */ track) => track.readyState)), ['ended'])
    })
    await t.test('the one that is chosen is opened', async () => {
      const devices = await page.$$eval('#device option', (options) => options.map((option) => /** @type {HTMLOptionElement} */ (option).value))
      assert.ok(devices.length >= 2 && devices[0] === '', `${devices}`)
      await page.selectOption('#device', devices[1])
      await page.click('#microphone')
      await page.waitForFunction(() => /** @type {any} */ (globalThis).asked.audio.length === 2)
      const asked = await page.evaluate(() => /** @type {any} */ (globalThis).asked.audio.map((/** @type {any} */ { deviceId }) => deviceId))
      assert.deepEqual(asked, [undefined, { exact: devices[1] }])
      assert.equal(await page.$eval('#device', (select) => /** @type {HTMLSelectElement} */ (select).value), devices[1])
      await page.click('#microphone')
    })
  } finally {
    await browser.close()
  }
})

test('what is missing is named, with a next step', async (t) => {
  const browser = await launch([...NO_GPU, '--use-fake-device-for-media-stream'])
  const page = await browser.newPage()
  const expected = (await pythonTranscripts())[CLIP]
  const devtools = await browser.newCDPSession(page)
  const weights = () => server.requests.filter(({ path }) => path.includes('onnx_data'))
  try {
    await page.goto(`${server.url}`)
    const origin = new URL(`${server.url}`).origin
    await t.test('space, before anything is downloaded', async () => {
      server.requests.length = 0
      await devtools.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 1e6 })
      await page.click('#load')
      assert.match(await failure(page), /the model needs \d+ MB of disk space, .* the browser gives this page.*; free disk space or delete/)
      assert.deepEqual(weights(), [])
      assert.deepEqual(await violations(page), [])
      await shoot(page, 'error-space')
      await devtools.send('Storage.overrideQuotaForOrigin', { origin })
    })
    await t.test('permission to listen, or the microphone that was chosen; files go on', async () => {
      await page.click('#load')
      await page.waitForSelector('#listen:not([hidden])')
      const permission = { name: /** @type {any} */ ('microphone') }
      await devtools.send('Browser.setPermission', { permission, setting: 'denied', origin })
      await page.click('#microphone')
      assert.match(await failure(page), /may not use the microphone; allow it in the site settings beside the address, then start/)
      assert.equal(await page.textContent('#microphone'), 'Start the microphone')
      await shoot(page, 'error-refused')
      await devtools.send('Browser.setPermission', { permission, setting: 'granted', origin })
      await page.$eval('#device', (select) => select.append(new Option('unplugged', 'unplugged', true, true)))
      await page.click('#microphone')
      await page.waitForFunction(() => document.querySelector('#error')?.textContent?.includes('the chosen microphone is not connected any more; choose another'))
      await page.setInputFiles('#file', path.join(SAMPLES, CLIP))
      await waitForWords(page, expected.segments.length)
      assert.equal(await text(page), expected.text)
      assert.equal(await page.isHidden('#error'), true)
    })
    await t.test('a button deletes what was downloaded, the text stays', async () => {
      assert.ok((await keptFiles(page)).length > 0)
      await page.click('#remove')
      await page.waitForSelector('#load:not([hidden])')
      assert.deepEqual(await keptFiles(page), [])
      assert.equal(await page.isHidden('#listen'), true)
      await page.reload()
      await page.waitForSelector('#load:not([hidden])')
      assert.match((await page.textContent('#what')) ?? '', /MB to download\.$/)
      assert.equal(await text(page), expected.text)
    })
    await t.test('a folder is dropped instead of a download', async () => {
      server.requests.length = 0
      await drop(devtools, ARTIFACT)
      await page.waitForSelector('#listen:not([hidden])')
      assert.deepEqual([weights(), await keptFiles(page)], [[], []])
      await page.click('#clear')
      await drop(devtools, path.join(SAMPLES, CLIP))
      await waitForWords(page, expected.segments.length)
      assert.equal(await text(page), expected.text)
      await drop(devtools, SAMPLES)
      assert.match(await failure(page), /the folder holds no voxtral_onnx\.json, so it is no exported model/)
      assert.match((await page.textContent('#what')) ?? '', /already on this computer/)
      assert.equal(await page.isHidden('#listen'), false) // what is loaded stays
      await shoot(page, 'error-folder')
    })
  } finally {
    await browser.close()
  }
})

/** Return the hashes of the files in the browser's store. @param {Page} page */
function keptFiles(page) {
  return page.evaluate(async () => {
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle('voxtral-onnx', { create: true })
    const names = []
    for await (const name of (await root.getDirectoryHandle('files', { create: true })).keys()) names.push(name)
    return names
  })
}

/**
 * Drop a file or folder on the page.
 * @param {import('playwright-core').CDPSession} devtools
 * @param {string} file
 */
async function drop(devtools, file) {
  const data = { items: [], files: [file], dragOperationsMask: 1 }
  for (const type of /** @type {const} */ (['dragEnter', 'dragOver', 'drop'])) {
    await devtools.send('Input.dispatchDragEvent', { type, x: 100, y: 100, data })
  }
}
