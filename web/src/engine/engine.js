/**
 * The transcriber for other pages:
 *
 *     import { createTranscriber } from './src/engine/engine.js'
 *
 *     const transcriber = await createTranscriber({ artifactUrl: '/artifact/' })
 *     transcriber.addEventListener('segment', ({ detail }) => console.log(detail.end, detail.text))
 *     await transcriber.start({ delayMs: 480 })
 *     transcriber.feed(samples) // Float32Array, mono, at transcriber.sampleRate; as often as there are some
 *     const { text, segments } = await transcriber.finish()
 *
 * Events: `progress` (of the download), `loading`, `token`, `segment`, `silence`, `warning`, `metrics`; each has its values
 * in `detail`, which live.js and artifact.js describe.
 */

import { errorOf } from '../shared/errors.js'

/**
 * @typedef {import('../shared/messages.js').OpenOptions & {onProgress?: (progress: import('./artifact.js').Progress) => void}}
 *   CreateOptions
 */

/**
 * Download what is not here yet, load it, and be ready to listen.
 * @param {CreateOptions} options
 * @returns {Promise<TranscriberClient>}
 * @throws {ArtifactError | DeviceError | StorageError} as errors.js describes; each message says what to do
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

/** The page's end of the worker. */
export class TranscriberClient extends EventTarget {
  constructor() {
    super()
    this.worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })
    /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map()
    this.count = 0
    this.sampleRate = 0 // known once a model was inspected
    this.worker.addEventListener('message', ({ data }) => this.onMessage(data))
    this.worker.addEventListener('error', (event) => this.fail(event.message || 'its script did not load; reload the page'))
  }

  /**
   * What would run here, and what that would download; nothing is downloaded but the manifest.
   * @param {import('../shared/messages.js').OpenOptions} options
   * @returns {Promise<import('../shared/messages.js').Inspection>}
   */
  async inspect(options) {
    const found = await this.request({ type: 'inspect', options: absolute(options) })
    this.sampleRate = found.sampleRate
    return found
  }

  /**
   * Download what is not here yet, and load it.
   * @param {import('../shared/messages.js').OpenOptions} options
   * @returns {Promise<import('../shared/messages.js').Inspection>}
   */
  async open(options) {
    await navigator.storage?.persist?.() // what was downloaded stays when the disk runs low
    const found = await this.request({ type: 'open', options: absolute(options) })
    this.sampleRate = found.sampleRate
    return found
  }

  /**
   * Open a stream; one that is open is given up.
   * @param {import('../shared/messages.js').StreamOptions} [options]
   * @returns {Promise<void>}
   */
  start(options = {}) {
    return this.request({ type: 'start', options })
  }

  /**
   * Take the next samples.
   * @param {Float32Array} samples mono, at `sampleRate`, full scale 1; the array is handed over
   * @returns {Promise<void>} resolved when they were transcribed: a file that waits for it never piles up
   */
  feed(samples) {
    const time = performance.timeOrigin + performance.now()
    const whole = samples.byteLength === samples.buffer.byteLength ? samples : samples.slice()
    return this.request({ type: 'feed', samples: whole, time }, [whole.buffer])
  }

  /**
   * The end of the audio: transcribe what is still delayed.
   * @returns {Promise<import('../shared/messages.js').Transcript>}
   */
  finish() {
    return this.request({ type: 'finish' })
  }

  /**
   * Give the stream up.
   * @returns {Promise<void>}
   */
  stop() {
    return this.request({ type: 'stop' })
  }

  /**
   * Delete everything that was downloaded.
   * @returns {Promise<void>}
   */
  remove() {
    return this.request({ type: 'remove' })
  }

  /** End the worker and free its memory. */
  close() {
    this.worker.terminate()
    this.fail('it was closed')
  }

  /**
   * @param {import('../shared/messages.js').RequestBody} body
   * @param {Transferable[]} [transfer]
   * @returns {Promise<any>}
   */
  request(body, transfer = []) {
    const id = this.count++
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject })
      this.worker.postMessage({ ...body, id }, transfer)
    })
  }

  /** @param {import('../shared/messages.js').Answer} answer */
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

  /** @param {string} reason */
  fail(reason) {
    for (const { reject } of this.waiting.values()) reject(new Error(`the engine stopped: ${reason}`))
    this.waiting.clear()
  }
}

/**
 * The worker stands elsewhere than the page that addresses are relative to.
 * @param {import('../shared/messages.js').OpenOptions} options
 */
function absolute(options) {
  return options.artifactUrl ? { ...options, artifactUrl: new URL(options.artifactUrl, document.baseURI).href } : options
}
