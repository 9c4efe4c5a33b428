/** The script of index.html: it turns clicks into requests to the engine, and the engine's events into text on the page. */

import { openAudio } from '../shared/audio.js'
import { TranscriberClient } from '../client/transcriber.js'
import { artifactAddress } from './artifact-address.js'
import { Microphone } from './microphone.js'
import { megabytes } from '../engine/store.js'
import { TranscriptView } from './transcript.js'

/**
 * Return the element with an id.
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
/** @type {{duration: number, isStopped: boolean} | undefined} the file that is being transcribed */
let file
/** @type {WakeLockSentinel | undefined} */
let wakeLock

/**
 * Run the action of a click or another event, and show its error as a sentence on the page.
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

/** Show which device and precision would run the model; load it at once where nothing has to be downloaded. */
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

/**
 * Show what runs or would run, with its notes, and the delays to choose from.
 * @param {import('../shared/messages.js').Inspection} found
 */
function showModel({ deviceName, precision, adapter, notes, missingBytes, totalBytes, selfTested, scope, delaysMs }) {
  const where = deviceName === 'webgpu' ? `WebGPU (${adapter})` : 'the CPU (WebAssembly)'
  const size = missingBytes > 0 ? `${megabytes(missingBytes)} to download` : `${megabytes(totalBytes)}, already on this computer`
  const tested = selfTested ? ', self-tested against its maker’s certificate' : ''
  $('what').textContent = `The model runs in precision ${precision} on ${where}: ${size}${tested}.`
  $('notes').replaceChildren(...(scope ? [noteItem(scope)] : []), ...notes.map((note) => noteItem(sentence(note))))
  const delay = /** @type {HTMLInputElement} */ ($('delay'))
  const value = delay.max ? delay.value : String(delaysMs.own) // the user's choice stays
  Object.assign(delay, { min: delaysMs.step, max: delaysMs.longest, step: delaysMs.step, value })
  showDelay()
}

/**
 * Return a list item.
 * @param {string} text
 */
function noteItem(text) {
  return Object.assign(document.createElement('li'), { textContent: text })
}

/**
 * Return a message as a sentence, with a capital letter and a full stop.
 * @param {string} message
 */
function sentence(message) {
  return message[0].toUpperCase() + message.slice(1) + (/[.?!]$/.test(message) ? '' : '.')
}

/** Show the delay that the slider stands at. */
function showDelay() {
  $('delay-value').textContent = `${/** @type {HTMLInputElement} */ ($('delay')).value} ms`
}

/**
 * Download and load a model; where that fails, what was shown before comes back.
 * @param {import('../shared/messages.js').OpenOptions} [chosen] the model of the last choice where there is none
 */
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

/** Start the microphone, or stop it or the file that is being transcribed. */
async function toggleMicrophone() {
  if (microphone) return stopMicrophone()
  if (file) {
    file.isStopped = true
    return
  }
  if (isBusy) return // the microphone is being opened

  // Open the device while the engine takes the silence that every stream begins with
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
    await Promise.all([begin(false), opening]) // samples that arrive in the meantime wait in the worker
    microphone = await opening
  } catch (error) {
    await opening.then((opened) => opened.close(), () => {})
    throw error
  } finally {
    isBusy = false
  }

  // Show it
  await holdAwake()
  showListening()
  await listDevices()
}

/** Close the microphone and transcribe what is still delayed. */
async function stopMicrophone() {
  await microphone?.close()
  microphone = undefined
  isPaused = false
  await wakeLock?.release()
  wakeLock = undefined
  showListening()
  await end()
}

/** Pause or resume the microphone: while it is paused its samples are dropped. */
function pause() {
  isPaused = !isPaused
  showListening()
}

/** Show on the buttons and the level meter what is running. */
function showListening() {
  $('microphone').textContent = microphone || file ? 'Stop' : 'Start the microphone'
  const button = /** @type {HTMLButtonElement} */ ($('pause'))
  button.disabled = !microphone
  button.textContent = isPaused ? 'Resume' : 'Pause'
  button.setAttribute('aria-pressed', String(isPaused))
  if (!microphone || isPaused) $('level').setAttribute('value', '0')
}

/**
 * Transcribe a file to its end, or until Stop is pressed.
 * @param {File} chosen
 */
async function transcribeFile(chosen) {
  if (file || isBusy) throw new Error('another recording is being transcribed; wait until it ends, or press Stop')
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

/**
 * Begin a stream, here and in the engine.
 * @param {boolean} isFile
 */
async function begin(isFile) {
  transcript.begin()
  await engine.start({ delayMs: Number(/** @type {HTMLInputElement} */ ($('delay')).value), isFile })
}

/** Finish the stream; its length is where the next one's times begin. */
async function end() {
  const { duration } = await engine.finish()
  transcript.duration = Math.max(transcript.duration, transcript.offset + duration)
}

/** Keep the screen on while the microphone runs; browsers end that when the tab is hidden. */
async function holdAwake() {
  if (!microphone || document.visibilityState !== 'visible') return
  wakeLock = await navigator.wakeLock?.request('screen').catch(() => undefined) // battery savers refuse it
}

/** Offer the microphones that there are; the one that is selected stays. */
async function listDevices() {
  const select = /** @type {HTMLSelectElement} */ ($('device'))
  const chosen = select.value
  const found = (await Microphone.list()).filter(({ deviceId }) => deviceId)
  const named = found.map(({ deviceId, label }, i) => new Option(label || `microphone ${i + 1}`, deviceId))
  select.replaceChildren(new Option('the browser’s default', ''), ...named)
  select.value = found.some(({ deviceId }) => deviceId === chosen) ? chosen : ''
}

/**
 * Download the transcript as a file.
 * @param {string} format one of FORMATS
 */
function save(format) {
  const url = URL.createObjectURL(new Blob([transcript.render(format)], { type: 'text/plain' }))
  Object.assign(document.createElement('a'), { href: url, download: `transcript.${format}` }).click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}

/**
 * Load an artifact from the folder that was chosen in the file dialog.
 * @param {FileList} files
 */
async function useFolder(files) {
  const byPath = new Map(Array.from(files, (file) => [file.webkitRelativePath || file.name, file]))
  await load({ ...options, artifactUrl: undefined, files: byPath })
}

/**
 * Load a folder that was dropped as an artifact, or transcribe a file that was dropped.
 * @param {DataTransfer} data
 */
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
 * Collect all files below a folder.
 * @param {FileSystemDirectoryEntry} folder
 * @returns {Promise<Map<string, File>>} by path
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

/** Delete every downloaded model and offer the download again. */
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
  const done = `${megabytes(received)} of ${megabytes(total)}${left}`
  $('what').textContent = `Downloading: ${done}. If you close this tab, the next visit resumes the download.`
})
engine.addEventListener('loading', (event) => {
  const part = /** @type {CustomEvent} */ (event).detail
  $('what').textContent = part === 'self-test' ? 'Testing the model on a sample clip…' : `Loading the ${part}…`
})
engine.addEventListener('token', (event) => transcript.token(/** @type {CustomEvent} */ (event).detail))
engine.addEventListener('segment', (event) => transcript.segment(/** @type {CustomEvent} */ (event).detail))
engine.addEventListener('warning', (event) => {
  $('notes').append(noteItem(sentence(/** @type {CustomEvent} */ (event).detail)))
})
engine.addEventListener('metrics', (event) => {
  const { captured, backlog, rtf, latencyP50 } = /** @type {CustomEvent} */ (event).detail
  const of = file ? ` of ${file.duration.toFixed(1)} s` : ` s of audio, ${backlog.toFixed(1)} s behind`
  const latency = file ? '' : `, latency ${Math.round(latencyP50)} ms`
  $('meter').textContent = `${captured.toFixed(1)}${of}, real-time factor ${rtf.toFixed(2)}${latency}`
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
