/** The page: what was clicked to the engine, what the engine tells to the eye. */

import { openAudio } from '../shared/audio.js'
import { TranscriberClient } from '../engine/engine.js'
import { artifactAddress } from './artifact-address.js'
import { Microphone } from './microphone.js'
import { megabytes } from '../engine/store.js'
import { TranscriptView } from './transcript.js'

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @returns {T}
 */
const $ = (id) => /** @type {T} */ (document.getElementById(id))

const query = new URLSearchParams(location.search)
const site = (/** @type {string} */ name) => /** @type {HTMLMetaElement} */ (document.querySelector(`meta[name=${name}]`)).content
/** @type {import('../shared/messages.js').OpenOptions} */
let options = {
  artifactUrl: query.has('artifact') ? undefined : site('voxtral-artifact'),
  device: /** @type {'webgpu' | 'wasm' | undefined} */ (query.get('device') ?? undefined),
  precision: query.get('precision') ?? undefined,
  context: query.has('context') ? Number(query.get('context')) : undefined,
}
const engine = new TranscriberClient()
const transcript = new TranscriptView($('transcript'))
/** @type {Microphone | undefined} */
let microphone
let isPaused = false
let isBusy = false
/** @type {{duration: number, isStopped: boolean} | undefined} what is transcribed now */
let file
/** @type {WakeLockSentinel | undefined} */
let wakeLock

/**
 * Run what a click asked for; an error becomes a sentence on the page.
 * @param {() => unknown} action
 */
async function act(action) {
  $('error').hidden = true
  try {
    await action()
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    $('error').textContent = `That did not work: ${message}.`
    $('error').hidden = false
  }
}

async function inspect() {
  $('what').textContent = 'No model is loaded.'
  const asked = query.get('artifact')
  if (asked !== null) options.artifactUrl = artifactAddress(asked, location.href, site('allowed-artifacts'))
  const found = await engine.inspect(options)
  showModel(found)
  if (found.missingBytes > 0) {
    $('load').textContent = `Download ${megabytes(found.missingBytes)} and start`
    $('load').hidden = false
  } else {
    await load()
  }
}

/** @param {import('../shared/messages.js').Inspection} found */
function showModel({ deviceName, precision, adapter, notes, missingBytes, totalBytes, selfTested, scope, delaysMs }) {
  const where = deviceName === 'webgpu' ? `WebGPU (${adapter})` : 'the CPU (WebAssembly)'
  const size = missingBytes > 0 ? `${megabytes(missingBytes)} to download` : `${megabytes(totalBytes)}, all here`
  $('what').textContent = `${precision} on ${where}: ${size}${selfTested ? ', self-tested against its maker’s certificate' : ''}.`
  $('notes').replaceChildren(
    ...[scope, ...notes].filter(Boolean).map((note) => Object.assign(document.createElement('li'), { textContent: note })),
  )
  const delay = /** @type {HTMLInputElement} */ ($('delay'))
  const value = delay.max ? delay.value : String(delaysMs.own) // one that was chosen stays
  Object.assign(delay, { min: delaysMs.step, max: delaysMs.longest, step: delaysMs.step, value })
  showDelay()
}

function showDelay() {
  $('delay-value').textContent = `${/** @type {HTMLInputElement} */ ($('delay')).value} ms`
}

/** @param {import('../shared/messages.js').OpenOptions} [chosen] instead of what was chosen before */
async function load(chosen = options) {
  const [what, isOffered] = [$('what').textContent, !$('load').hidden]
  $('load').hidden = true
  $('what').textContent = 'Loading the model…'
  try {
    showModel(await engine.open(chosen))
  } catch (error) {
    $('what').textContent = what
    $('load').hidden = !isOffered
    throw error
  } finally {
    $('progress').hidden = true
  }
  options = chosen
  $('listen').hidden = false
}

async function toggleMicrophone() {
  if (microphone) return stopMicrophone()
  if (file) {
    file.isStopped = true
    return
  }
  if (isBusy) return // it is being opened
  isBusy = true
  const opening = Microphone.open({
    deviceId: /** @type {HTMLSelectElement} */ ($('device')).value || undefined,
    sampleRate: engine.sampleRate,
    onSamples: (samples, level) => {
      if (isPaused) return
      $('level').setAttribute('value', String(level))
      void act(() => engine.feed(samples))
    },
    onEnded: () => void act(stopMicrophone),
  })
  try {
    await Promise.all([begin(false), opening]) // what is said during the silence before the audio waits
    microphone = await opening
  } catch (error) {
    await opening.then((opened) => opened.close(), () => {})
    throw error
  } finally {
    isBusy = false
  }
  await holdAwake()
  showListening()
  await listDevices()
}

async function stopMicrophone() {
  await microphone?.close()
  microphone = undefined
  isPaused = false
  await wakeLock?.release()
  wakeLock = undefined
  showListening()
  await end()
}

function pause() {
  isPaused = !isPaused
  showListening()
}

function showListening() {
  $('microphone').textContent = microphone || file ? 'Stop' : 'Start the microphone'
  const button = /** @type {HTMLButtonElement} */ ($('pause'))
  button.disabled = !microphone
  button.textContent = isPaused ? 'Go on' : 'Pause'
  button.setAttribute('aria-pressed', String(isPaused))
  if (!microphone || isPaused) $('level').setAttribute('value', '0')
}

/** @param {File} chosen */
async function transcribeFile(chosen) {
  if (file || isBusy) throw new Error('something is being transcribed; wait for its end, or press Stop')
  if (microphone) await stopMicrophone()
  const { duration, blocks } = await openAudio(chosen, engine.sampleRate)
  file = { duration, isStopped: false }
  showListening()
  try {
    await begin(true)
    for await (const block of blocks) {
      if (file.isStopped) break
      await engine.feed(block)
    }
    await end()
  } finally {
    file = undefined
    showListening()
  }
}

/** @param {boolean} isFile */
async function begin(isFile) {
  transcript.begin()
  await engine.start({ delayMs: Number(/** @type {HTMLInputElement} */ ($('delay')).value), isFile })
}

async function end() {
  const { duration } = await engine.finish()
  transcript.duration = Math.max(transcript.duration, transcript.offset + duration)
}

async function holdAwake() {
  if (!microphone || document.visibilityState !== 'visible') return
  wakeLock = await navigator.wakeLock?.request('screen').catch(() => undefined) // a battery saver may refuse it
}

async function listDevices() {
  const select = /** @type {HTMLSelectElement} */ ($('device'))
  const chosen = select.value
  const found = (await Microphone.list()).filter(({ deviceId }) => deviceId)
  const named = found.map(({ deviceId, label }, i) => new Option(label || `microphone ${i + 1}`, deviceId))
  select.replaceChildren(new Option('the browser’s choice', ''), ...named)
  select.value = found.some(({ deviceId }) => deviceId === chosen) ? chosen : ''
}

/** @param {string} format */
function save(format) {
  const url = URL.createObjectURL(new Blob([transcript.render(format)], { type: 'text/plain' }))
  Object.assign(document.createElement('a'), { href: url, download: `transcript.${format}` }).click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}

/** @param {FileList} files */
async function useFolder(files) {
  const byPath = new Map(Array.from(files, (file) => [file.webkitRelativePath || file.name, file]))
  await load({ ...options, artifactUrl: undefined, files: byPath })
}

/** @param {DataTransfer} data */
async function drop(data) {
  const entry = data.items[0]?.webkitGetAsEntry()
  if (entry?.isDirectory) {
    const files = await filesBelow(/** @type {FileSystemDirectoryEntry} */ (entry))
    await load({ ...options, artifactUrl: undefined, files })
  } else if (data.files[0]) {
    if ($('listen').hidden) throw new Error('load the model first, then drop a file')
    await transcribeFile(data.files[0])
  }
}

/**
 * @param {FileSystemDirectoryEntry} folder
 * @returns {Promise<Map<string, File>>}
 */
async function filesBelow(folder) {
  const found = new Map()
  const reader = folder.createReader()
  for (;;) {
    const entries = await /** @type {Promise<FileSystemEntry[]>} */ (new Promise((ok, no) => reader.readEntries(ok, no)))
    if (entries.length === 0) return found
    for (const entry of entries) {
      if (entry.isDirectory) {
        for (const [path, file] of await filesBelow(/** @type {FileSystemDirectoryEntry} */ (entry))) found.set(path, file)
      } else {
        const file = await new Promise((ok, no) => /** @type {FileSystemFileEntry} */ (entry).file(ok, no))
        found.set(entry.fullPath, file)
      }
    }
  }
}

async function remove() {
  await engine.remove()
  $('listen').hidden = true
  showModel(await engine.inspect(options))
  $('load').textContent = 'Download and start'
  $('load').hidden = false
}

engine.addEventListener('progress', (event) => {
  const { received, total, secondsLeft } = /** @type {CustomEvent} */ (event).detail
  const left = secondsLeft === undefined ? '' : `, ${Math.ceil(secondsLeft)} s left`
  Object.assign($('progress'), { hidden: false, max: total, value: received })
  $('what').textContent = `Downloading: ${megabytes(received)} of ${megabytes(total)}${left}. A closed tab goes on later.`
})
engine.addEventListener('loading', (event) => {
  const part = /** @type {CustomEvent} */ (event).detail
  $('what').textContent = part === 'self-test' ? 'Testing the model on a clip…' : `Loading the ${part}…`
})
engine.addEventListener('token', (event) => transcript.token(/** @type {CustomEvent} */ (event).detail))
engine.addEventListener('segment', (event) => transcript.segment(/** @type {CustomEvent} */ (event).detail))
engine.addEventListener('warning', (event) => {
  const note = Object.assign(document.createElement('li'), { textContent: /** @type {CustomEvent} */ (event).detail })
  $('notes').append(note)
})
engine.addEventListener('metrics', (event) => {
  const { captured, backlog, rtf, latencyP50 } = /** @type {CustomEvent} */ (event).detail
  const of = file ? ` of ${file.duration.toFixed(1)} s` : ` s, ${backlog.toFixed(1)} s behind`
  const latency = file ? '' : `, latency ${Math.round(latencyP50)} ms`
  $('meter').textContent = `${captured.toFixed(1)}${of}, RTF ${rtf.toFixed(2)}${latency}`
})

const on = (/** @type {string} */ id, /** @type {string} */ type, /** @type {() => unknown} */ action) =>
  $(id).addEventListener(type, () => void act(action))
on('load', 'click', () => load())
on('remove', 'click', remove)
on('microphone', 'click', toggleMicrophone)
on('pause', 'click', pause)
on('delay', 'input', showDelay)
on('copy', 'click', () => navigator.clipboard.writeText(transcript.render('txt')))
on('clear', 'click', () => transcript.clear())
on('folder', 'change', () => useFolder(/** @type {FileList} */ (/** @type {HTMLInputElement} */ ($('folder')).files)))
on('file', 'change', async () => {
  const input = /** @type {HTMLInputElement} */ ($('file'))
  const chosen = input.files?.[0]
  try {
    if (chosen) await transcribeFile(chosen)
  } finally {
    input.value = '' // the same file can be chosen again
  }
})
for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll('[data-format]'))) {
  button.addEventListener('click', () => void act(() => save(button.dataset.format ?? 'txt')))
}
addEventListener('dragover', (event) => {
  event.preventDefault()
  document.body.classList.add('dropping')
})
addEventListener('dragleave', () => document.body.classList.remove('dropping'))
addEventListener('drop', (event) => {
  event.preventDefault()
  document.body.classList.remove('dropping')
  const { dataTransfer } = event
  if (dataTransfer) void act(() => drop(dataTransfer))
})
document.addEventListener('visibilitychange', () => void holdAwake())
if ('serviceWorker' in navigator) void navigator.serviceWorker.register('sw.js').catch(() => {}) // only for offline visits
void act(inspect)
void listDevices()
