/**
 * The transcriber as other pages import it. It runs in a worker, so that the page stays responsive:
 *
 *     import { createTranscriber } from './src/engine/engine.js'
 *
 *     const transcriber = await createTranscriber({ artifactUrl: '/artifact/' })
 *     transcriber.addEventListener('segment', ({ detail }) => console.log(detail.end, detail.text))
 *     await transcriber.start({ delayMs: 480 })
 *     transcriber.feed(samples) // Float32Array, mono, at transcriber.sampleRate; again and again
 *     const { text, segments } = await transcriber.finish()
 *
 * Events: `progress` (of the download), `loading`, `token`, `segment`, `silence`, `warning`, `metrics`. The values of each
 * are in its `detail`; live.js and artifact.js describe them.
 */

import { errorOf } from '../shared/errors.js'

/**
 * @typedef {import('../shared/messages.js').OpenOptions & {onProgress?: (progress: import('../engine/artifact.js').Progress) => void}}
 *   CreateOptions
 */

/**
 * Download the model where it is not kept yet, load it, and return a transcriber that is ready to start.
 * @param {CreateOptions} options
 * @returns {Promise<TranscriberClient>}
 * @throws {ArtifactError | DeviceError | StorageError} see errors.js; each message says what to do
 */
export async function createTranscriber({ onProgress, ...options }) {
  const client = new TranscriberClient()
  client.addEventListener('progress', (event) => onProgress?.(/** @type {CustomEvent} */ (event).detail))
  try {
    await client.open(options)
  } catch (error) {
    client.close()
    throw error
  }
  return client
}

/** A transcriber that runs in a worker: each method sends it a request and resolves with its reply. */
export class TranscriberClient extends EventTarget {
  constructor() {
    super()
    this.worker = new Worker(new URL('../engine/worker.js', import.meta.url), { type: 'module' })
    /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map()
    this.count = 0
    this.sampleRate = 0 // Hz; known after `inspect` or `open`
    this.worker.addEventListener('message', ({ data }) => this.onMessage(data))
    this.worker.addEventListener('error', (event) => this.fail(event.message || 'its script did not load; reload the page'))
  }

  /**
   * Return which device and precision would run a model here and how much they would download; only the manifest is read.
   * @param {import('../shared/messages.js').OpenOptions} options
   * @returns {Promise<import('../shared/messages.js').Inspection>}
   */
  async inspect(options) {
    const found = await this.request({ type: 'inspect', options: absolute(options) })
    this.sampleRate = found.sampleRate
    return found
  }

  /**
   * Download the model where it is not kept yet, and load it.
   * @param {import('../shared/messages.js').OpenOptions} options
   * @returns {Promise<import('../shared/messages.js').Inspection>}
   */
  async open(options) {
    await navigator.storage?.persist?.() // asks the browser to keep downloads when the disk runs low
    const found = await this.request({ type: 'open', options: absolute(options) })
    this.sampleRate = found.sampleRate
    return found
  }

  /**
   * Begin a stream; one that is open ends without its last words.
   * @param {import('../shared/messages.js').StreamOptions} [options]
   * @returns {Promise<void>}
   */
  start(options = {}) {
    return this.request({ type: 'start', options })
  }

  /**
   * Transcribe the next samples.
   * @param {Float32Array} samples mono, at `sampleRate`, full scale 1; the array is transferred to the worker and empty after
   * @returns {Promise<void>} resolves when they are transcribed; awaiting it keeps the blocks of a file from piling up
   */
  feed(samples) {
    const time = performance.timeOrigin + performance.now()
    const whole = samples.byteLength === samples.buffer.byteLength ? samples : samples.slice()
    return this.request({ type: 'feed', samples: whole, time }, [whole.buffer])
  }

  /**
   * End the audio, transcribe what is still delayed, and return the whole transcript.
   * @returns {Promise<import('../shared/messages.js').Transcript>}
   */
  finish() {
    return this.request({ type: 'finish' })
  }

  /**
   * End the stream without its last words.
   * @returns {Promise<void>}
   */
  stop() {
    return this.request({ type: 'stop' })
  }

  /**
   * Delete every downloaded model.
   * @returns {Promise<void>}
   */
  remove() {
    return this.request({ type: 'remove' })
  }

  /** Terminate the worker and free its memory. */
  close() {
    this.worker.terminate()
    this.fail('it was closed')
  }

  /**
   * Send a request to the worker and return its reply.
   * @param {import('../shared/messages.js').RequestBody} body
   * @param {Transferable[]} [transfer] buffers to transfer instead of copying
   * @returns {Promise<any>}
   */
  request(body, transfer = []) {
    const id = this.count++
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject })
      this.worker.postMessage({ ...body, id }, transfer)
    })
  }

  /**
   * Dispatch an event, or settle the request that an answer belongs to.
   * @param {import('../shared/messages.js').Answer} answer
   */
  onMessage(answer) {
    if (answer.type === 'event') {
      const { type, ...values } = answer.event
      const [detail] = Object.values(values)
      this.dispatchEvent(new CustomEvent(type, { detail }))
      return
    }
    const { resolve, reject } = this.waiting.get(answer.id) ?? {}
    this.waiting.delete(answer.id)
    if (answer.type === 'reply') resolve?.(answer.value)
    else reject?.(errorOf(answer.error))
  }

  /**
   * Reject every request that waits.
   * @param {string} reason
   */
  fail(reason) {
    for (const { reject } of this.waiting.values()) reject(new Error(`the engine stopped: ${reason}`))
    this.waiting.clear()
  }
}

/**
 * Return the options with an absolute address: the page's relative addresses mean something else in the worker.
 * @param {import('../shared/messages.js').OpenOptions} options
 */
function absolute(options) {
  return options.artifactUrl ? { ...options, artifactUrl: new URL(options.artifactUrl, document.baseURI).href } : options
}
