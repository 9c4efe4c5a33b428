/** Helpers to start a headless Chromium and to read its pages. */

import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { chromium } from 'playwright-core'
import { SAMPLES, WEB } from './samples.js'

/** @typedef {import('playwright-core').Page} Page */

export const CLIP = 'digits-espeak.wav'
export const PATIENCE = Number(process.env.PATIENCE ?? 120_000) // milliseconds, enough on a busy machine with two cores
const SHOTS = process.env.SCREENSHOTS // a folder to write screenshots to
const FLAGS = ['--headless=new', '--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-dev-shm-usage']
export const SWIFTSHADER = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan', '--use-vulkan=swiftshader']
export const NO_GPU = ['--disable-gpu', '--disable-features=WebGPU', '--disable-blink-features=WebGPU']
const FAKE_MICROPHONE = ['--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream']

/**
 * Return the flags of a fake microphone that plays the clip.
 * @param {boolean} repeats
 */
export const microphone = (repeats) => [
  ...FAKE_MICROPHONE,
  `--use-file-for-fake-audio-capture=${path.join(SAMPLES, CLIP)}${repeats ? '' : '%noloop'}`,
]

/** @type {string[]} */
const profiles = []

/**
 * Launch a browser with a profile of its own, whose storage its pages share.
 * @param {string[]} flags
 */
export async function launch(flags) {
  const profile = await mkdtemp(path.join(tmpdir(), 'voxtral-onnx-browser-'))
  profiles.push(profile)
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: false, // the flag --headless=new above
    args: [...FLAGS, ...flags],
    acceptDownloads: true,
  })
  browser.setDefaultTimeout(PATIENCE)
  return browser
}

/** Delete the profiles of all browsers. */
export async function removeProfiles() {
  for (const profile of profiles) await rm(profile, { recursive: true, force: true })
}

/**
 * Take a screenshot where SCREENSHOTS is set.
 * @param {Page} page
 * @param {string} name
 */
export async function shoot(page, name) {
  if (SHOTS) await page.screenshot({ path: path.join(SHOTS, `${name}.png`), fullPage: true })
}

/**
 * Return the accessibility problems that axe finds.
 * @param {Page} page
 */
export async function violations(page) {
  await page.evaluate(await readFile(path.join(WEB, 'node_modules/axe-core/axe.min.js'), 'utf8')) // past the page's policy
  const { violations } = await page.evaluate(() => /** @type {any} */ (globalThis).axe.run())
  return violations.map((/** @type {any} */ v) => `${v.id}: ${v.nodes.map((/** @type {any} */ n) => n.html).join(' ')}`)
}

/**
 * Return the transcript that the page shows.
 * @param {Page} page
 */
export const text = (page) => page.$$eval('#transcript p span', (spans) => spans.map((span) => span.textContent).join('').trim())

/**
 * Wait until the page shows so many complete segments.
 * @param {Page} page
 * @param {number} count
 */
export const waitForWords = (page, count) =>
  page.waitForFunction((n) => document.querySelectorAll('#transcript p span:not(.pending)').length >= n, count)

/**
 * Wait for the page's error message and return it.
 * @param {Page} page
 */
export async function failure(page) {
  await page.waitForSelector('#error:not([hidden])')
  return (await page.textContent('#error')) ?? ''
}
