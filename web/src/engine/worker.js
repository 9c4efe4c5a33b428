/** The worker that runs all inference, one request at a time, off the page's thread. */

import { FolderArtifact, RemoteArtifact } from './artifact.js'
import { selectBackend } from './select-backend.js'
import { openDevice } from './device.js'
import { UsageError, errorValues } from '../shared/errors.js'
import { Live } from './live.js'
import { selfTest } from './self-test.js'
import { openStore } from './store.js'
import { Transcriber } from './transcriber.js'

/**
 * @typedef {import('../shared/messages.js').Request} Request
 * @typedef {import('../shared/messages.js').OpenOptions} OpenOptions
 */

const CLIP = 'command-hibari.wav' // what `voxtral-onnx verify` lets a certificate hold the tokens of
const CLIP_ADDRESS = new URL('../../samples/command-hibari.wav', import.meta.url)

/** @type {Transcriber | undefined} */
let transcriber
/** @type {Live | undefined} */
let live
let isFile = false

/**
 * Send an event to the page.
 * @param {import('../shared/messages.js').Event} event
 */
const emit = (event) => post({ type: 'event', event })

/**
 * Send a message to the page.
 * @param {import('../shared/messages.js').Answer} answer
 */
const post = (answer) => self.postMessage(answer)

/**
 * Find the artifact that the options name.
 * @param {OpenOptions} options
 */
async function find(options) {
  if (options.files) return FolderArtifact.open(options.files)
  if (options.artifactUrl) return RemoteArtifact.open(String(options.artifactUrl), await openStore())
  throw new UsageError('createTranscriber: expected artifactUrl or files, got neither')
}

/**
 * Return what would run an artifact here, and the download that it needs.
 * @param {OpenOptions} options
 * @returns {Promise<import('../shared/messages.js').Inspection>}
 */
async function inspect(options) {
  return describe(await find(options), options)
}

/**
 * Return the inspection of an artifact that was found.
 * @param {import('./artifact.js').Artifact} artifact
 * @param {OpenOptions} options
 */
async function describe(artifact, options) {
  const { manifest } = artifact
  const backend = await selectBackend(manifest, options)
  const { msPerToken: step, streaming } = manifest
  return {
    ...backend,
    missingBytes: await artifact.missing(backend.precision),
    totalBytes: [...manifest.filesOf(backend.precision).values()].reduce((sum, { size }) => sum + size, 0),
    selfTested: false,
    scope: manifest.scope,
    sampleRate: manifest.config.audio.sample_rate,
    delaysMs: {
      step,
      longest: step * streaming.max_delay_tokens,
      own: step * streaming.default_delay_tokens,
      trained: streaming.trained_delay_tokens.map((tokens) => step * tokens),
    },
  }
}

/**
 * Download, load and self-test a model in the place of the one before.
 * @param {OpenOptions} options
 */
async function open(options) {
  const artifact = await find(options)
  const found = await describe(artifact, options)
  const { context, blankGuard, graphCapture = true } = options
  await artifact.fetch(found.precision, (progress) => emit({ type: 'progress', progress }))

  // Free the last model before the next one is loaded
  await transcriber?.close()
  transcriber = undefined
  const device = await openDevice(found.deviceName)
  device.captures &&= graphCapture
  transcriber = await Transcriber.open({
    manifest: artifact.manifest,
    readFile: artifact.readFile,
    precision: found.precision,
    device,
    context,
    blankGuard,
    onPart: (part) => emit({ type: 'loading', part }),
  })

  // Compare it with its certificate
  const untested = await test(artifact, found.precision)
  const notes = [...found.notes, ...transcriber.notes, ...(untested ? [untested] : [])]
  return { ...found, missingBytes: 0, selfTested: !untested, notes }
}

/**
 * Self-test the loaded model; where that cannot be done, return a sentence that says why.
 * @param {import('./artifact.js').Artifact} artifact
 * @param {string} precision
 */
async function test(artifact, precision) {
  const expected = await artifact.selfTest(precision)
  if (!expected) {
    return 'not self-tested: this model has no valid certificate; whoever exported it can add one with: voxtral-onnx verify ARTIFACT'
  }
  const clip = expected.clip === CLIP ? await fetch(CLIP_ADDRESS).catch(() => undefined) : undefined
  if (!clip?.ok) return `not self-tested: this page lacks the certificate’s sample clip ${expected.clip}`
  emit({ type: 'loading', part: 'self-test' })
  try {
    await selfTest(/** @type {Transcriber} */ (transcriber), expected, new File([await clip.blob()], expected.clip))
  } catch (error) {
    await transcriber?.close()
    transcriber = undefined
    throw error
  }
  return undefined
}

/**
 * Begin a stream and transcribe the silence that comes before its audio.
 * @param {import('../shared/messages.js').StreamOptions} options
 */
async function start(options) {
  if (!transcriber) throw new UsageError('start: no model is loaded; open one first')
  live?.stream.release()
  isFile = options.isFile ?? false
  live = new Live(transcriber.stream({ delayMs: options.delayMs, stopAtEos: isFile }), emit)
  await live.advance()
}

/**
 * Queue samples as soon as their message arrives: all that arrive during a call are transcribed together by the next one.
 * @param {Float32Array} samples
 * @param {number} time milliseconds since 1970
 */
function arrive(samples, time) {
  if (!live) throw new UsageError('feed: no stream is open; start one first')
  live.arrive(samples, time - performance.timeOrigin)
}

/** Transcribe all samples that wait. */
async function feed() {
  await letMessagesIn()
  if (!live || live.stream.finished) return
  if (!isFile) live.watchBacklog()
  if (live.waiting.length > 0) await live.advance()
}

/** Finish the stream and return its transcript. */
async function finish() {
  if (!live) throw new UsageError('finish: no stream is open; start one first')
  const transcript = await live.finish()
  stop()
  return transcript
}

/** End the stream without its last words. */
function stop() {
  live?.stream.release()
  live = undefined
}

/** Delete every downloaded model. */
async function remove() {
  await (await openStore()).clear()
}

/**
 * Run a request and return the value of its reply.
 * @param {Request} request
 */
function run(request) {
  switch (request.type) {
    case 'inspect':
      return inspect(request.options)
    case 'open':
      return open(request.options)
    case 'start':
      return start(request.options)
    case 'feed':
      return feed()
    case 'finish':
      return finish()
    case 'stop':
      return stop()
    case 'remove':
      return remove()
    default:
      throw new UsageError(`unknown request ${JSON.stringify(/** @type {any} */ (request).type)}; reload the page`)
  }
}

const channel = new MessageChannel()

/** Let messages that were posted during a call arrive, so that the next call takes all of their samples. */
function letMessagesIn() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve
    channel.port2.postMessage(undefined)
  })
}

let last = Promise.resolve()

self.addEventListener('message', (/** @type {MessageEvent<Request>} */ { data: request }) => {
  const { id } = request
  /** @type {unknown} */
  let refusal
  try {
    if (request.type === 'feed') arrive(request.samples, request.time)
  } catch (error) {
    refusal = error
  }
  last = last.then(async () => {
    try {
      if (refusal) throw refusal
      post({ type: 'reply', id, value: await run(request) })
    } catch (error) {
      post({ type: 'error', id, error: errorValues(error) })
    }
  })
})
