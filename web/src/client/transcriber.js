/**
 * The transcriber as pages use it. It runs in a worker, so that the page stays responsive:
 *
 *     const transcriber = await createTranscriber({ artifactUrl: '/artifact/' })
 *     const { text } = await transcriber.transcribe(file)
 *
 *     const media = await navigator.mediaDevices.getUserMedia({ audio: true })
 *     for await (const { text } of transcriber.listen(media)) console.log(text)
 */

import { openAudio } from '../shared/audio.js'
import { AudioError, UsageError, errorOf, kindOf } from '../shared/errors.js'
import { Capture } from './capture.js'
import { Transcription } from './transcription.js'

/**
 * @typedef {import('../shared/messages.js').Inspection} Inspection
 * @typedef {import('../shared/messages.js').OpenOptions} OpenOptions
 * @typedef {import('../shared/messages.js').Progress} Progress
 * @typedef {import('../shared/messages.js').Segment} Segment
 * @typedef {import('../shared/messages.js').StreamMetrics} StreamMetrics
 * @typedef {import('../shared/messages.js').StreamOptions} StreamOptions
 * @typedef {import('../shared/messages.js').Token} Token
 * @typedef {import('../shared/messages.js').Transcript} Transcript
 * @typedef {import('../shared/audio.js').Recording} Recording
 *
 * @typedef {object} CreateOptions
 * @property {(progress: Progress) => void} [onProgress] called while the model is downloaded
 * @property {AbortSignal} [signal] ends the download and the loading; what was downloaded is kept for the next time
 *
 * @typedef {object} TranscribeOptions
 * @property {number} [delayMs] how long the model listens before it writes; by default the model's own delay
 * @property {AbortSignal} [signal] ends the transcription without its last words
 *
 * @typedef {object} ListenOptions
 * @property {number} [delayMs] how long the model listens before it writes; by default the model's own delay
 * @property {AbortSignal} [signal] ends the transcription without its last words
 * @property {(level: number) => void} [onLevel] called about every 20 ms with the input's peak, 0 to 1
 *
 * @typedef {object} TranscriberEvents
 * @property {CustomEvent<Progress>} progress of the download
 * @property {CustomEvent<string>} loading the part that is loaded next
 * @property {CustomEvent<Token>} token text as soon as it is decoded, in pieces of words
 * @property {CustomEvent<Segment>} segment a word or a few, complete and with its times
 * @property {CustomEvent<number>} silence the second since which nobody has spoken, two seconds later
 * @property {CustomEvent<string>} warning a sentence for the user: a muted microphone, a machine that is too slow
 * @property {CustomEvent<StreamMetrics>} metrics how far the work is behind
 *
 * @typedef {<K extends keyof TranscriberEvents>(type: K, listener: (event: TranscriberEvents[K]) => void,
 *   options?: boolean | AddEventListenerOptions) => void} Listen
 * @typedef {Omit<EventTarget, 'addEventListener' | 'removeEventListener'> &
 *   {addEventListener: Listen, removeEventListener: Listen}} TranscriberTarget
 */

const Target = /** @type {new () => TranscriberTarget} */ (EventTarget)

/**
 * Download the model where it is not kept yet, load it, and return a transcriber that is ready.
 * @param {OpenOptions & CreateOptions} options
 * @returns {Promise<TranscriberClient>}
 * @throws {ArtifactError | DeviceError | StorageError | UsageError} see errors.js; each message says what to do
 */
export async function createTranscriber(options) {
  const { onProgress, signal, ...rest } = options ?? {}
  signal?.throwIfAborted()
  const client = new TranscriberClient()
  if (onProgress) client.addEventListener('progress', ({ detail }) => onProgress(detail))
  const abort = () => client.close(signal?.reason)
  signal?.addEventListener('abort', abort)
  try {
    await client.open(rest)
  } catch (error) {
    client.close()
    throw error
  } finally {
    signal?.removeEventListener('abort', abort)
  }
  return client
}

/** A transcriber that runs in a worker: each method sends it a request and resolves with its reply. */
export class TranscriberClient extends Target {
  #worker = new Worker(new URL('../engine/worker.js', import.meta.url), { type: 'module' })
  /** @type {Map<number, {resolve: (value: any) => void, reject: (error: unknown) => void}>} */
  #waiting = new Map()
  #count = 0
  /** @type {unknown} why no request is answered any more */
  #end
  /** @type {Transcription | undefined} the one that runs, or the last of those that wait for it */
  #last

  /** Start a worker; `open` or `inspect` comes next. `createTranscriber` does both. */
  constructor() {
    super()
    /** The model's sample rate in Hz, known after `inspect` or `open`. */
    this.sampleRate = 0
    this.#worker.addEventListener('message', ({ data }) => this.#onMessage(data))
    this.#worker.addEventListener('error', ({ message }) => {
      this.close(new Error(`the engine stopped: ${message || 'its script did not load; reload the page'}`))
    })
  }

  /**
   * Return which device and precision would run a model here and how much they would download; only the manifest is read.
   * @param {OpenOptions} options
   * @returns {Promise<Inspection>}
   */
  async inspect(options) {
    const found = await this.#request({ type: 'inspect', options: checked(options) })
    this.sampleRate = found.sampleRate
    return found
  }

  /**
   * Download the model where it is not kept yet, and load it.
   * @param {OpenOptions} options
   * @returns {Promise<Inspection>}
   */
  async open(options) {
    const body = /** @type {const} */ ({ type: 'open', options: checked(options) })
    // Ask the browser to keep downloads when the disk runs low; Firefox asks the user, who may never answer
    void navigator.storage?.persist?.().catch(() => false)
    const found = await this.#request(body)
    this.sampleRate = found.sampleRate
    return found
  }

  /**
   * Transcribe a recording. The result is a promise of the transcript and yields its segments: use `await` or `for await`.
   * Recordings that are given before the last one is done are transcribed one after the other.
   * @param {Recording} recording a File or Blob, an address, an AudioBuffer, or mono samples at `sampleRate`
   * @param {TranscribeOptions} [options]
   * @returns {Transcription}
   */
  transcribe(recording, { delayMs, signal } = {}) {
    return this.#run(false, signal, async (control) => {
      const { blocks } = await openAudio(recording, this.sampleRate)
      await this.start({ delayMs, isFile: true })
      for await (const block of blocks) {
        control.signal.throwIfAborted()
        if (control.stopped.aborted) break
        await this.feed(block)
      }
      control.signal.throwIfAborted()
    })
  }

  /**
   * Transcribe live sound until it ends or `stop` is called. The result yields segments as they are spoken: use `for await`;
   * as a promise it is one of the whole transcript. The media stream stays its maker's, who stops its tracks.
   * @param {MediaStream} media of a microphone (`getUserMedia`), a tab (`getDisplayMedia`) or an element (`captureStream`)
   * @param {ListenOptions} [options]
   * @returns {Transcription}
   */
  listen(media, { delayMs, signal, onLevel } = {}) {
    return this.#run(true, signal, async (control) => {
      const ending = new Ending(control)
      const opening = Capture.open(media, {
        sampleRate: this.sampleRate,
        onSamples: (samples, level) => {
          onLevel?.(level)
          if (!ending.isOver) this.feed(samples).catch((error) => ending.fail(error))
        },
        onEnded: () => ending.end(),
        onWarning: (text) => this.dispatchEvent(new CustomEvent('warning', { detail: text })),
      })
      try {
        await Promise.all([this.start({ delayMs }), opening]) // samples that arrive in the meantime wait in the worker
        await ending.promise
      } finally {
        ending.end()
        await opening.then((capture) => capture.close(), () => {})
      }
    })
  }

  /**
   * Begin a stream of samples that the page feeds itself; one that is open ends without its last words.
   * @param {StreamOptions} [options]
   * @returns {Promise<void>}
   */
  start(options = {}) {
    return this.#request({ type: 'start', options })
  }

  /**
   * Transcribe the next samples.
   * @param {Float32Array} samples mono, at `sampleRate`, full scale 1; the array is transferred to the worker and empty after
   * @returns {Promise<void>} resolves when they are transcribed; awaiting it keeps the blocks of a file from piling up
   */
  async feed(samples) {
    if (!(samples instanceof Float32Array)) {
      throw new AudioError(
        `feed: expected a Float32Array of mono samples at ${this.sampleRate} Hz with full scale 1, got ${kindOf(samples)}; ` +
          'transcribe takes files, addresses and AudioBuffers, and listen takes MediaStreams',
      )
    }
    const time = performance.timeOrigin + performance.now()
    const isWhole = samples.buffer instanceof ArrayBuffer && samples.byteLength === samples.buffer.byteLength
    const whole = /** @type {Float32Array<ArrayBuffer>} */ (isWhole ? samples : Float32Array.from(samples))
    return this.#request({ type: 'feed', samples: whole, time }, [whole.buffer])
  }

  /**
   * End the audio, transcribe what is still delayed, and return the whole transcript.
   * @returns {Promise<Transcript>}
   */
  finish() {
    return this.#request({ type: 'finish' })
  }

  /**
   * End the stream without its last words.
   * @returns {Promise<void>}
   */
  stop() {
    return this.#request({ type: 'stop' })
  }

  /**
   * Delete every model that this site has downloaded.
   * @returns {Promise<void>}
   */
  remove() {
    return this.#request({ type: 'remove' })
  }

  /**
   * Terminate the worker and free its memory; what waits for it is rejected.
   * @param {unknown} [reason] what it is rejected with
   */
  close(reason = new UsageError('the transcriber is closed; create another')) {
    this.#end ??= reason
    this.#worker.terminate()
    for (const { reject } of this.#waiting.values()) reject(this.#end)
    this.#waiting.clear()
  }

  /**
   * Run a transcription when the one before it is done: collect its segments, and finish its stream.
   * @param {boolean} isLive
   * @param {AbortSignal | undefined} signal
   * @param {(control: import('./transcription.js').Control) => Promise<void>} work feed the stream until it ends
   */
  #run(isLive, signal, work) {
    const before = this.#last
    const isRefused = before && (isLive || before.isLive) // live sound neither waits nor ends by itself
    const transcription = new Transcription(isLive, signal, async (control) => {
      const method = isLive ? 'listen' : 'transcribe'
      if (isRefused) throw new UsageError(`${method}: another transcription runs; await it, or call its stop(), then try again`)
      const onSegment = (/** @type {CustomEvent<Segment>} */ { detail }) => control.push(detail)
      try {
        await before?.then(() => {}, () => {})
        if (this.sampleRate === 0) throw new UsageError(`${method}: no model is loaded; await createTranscriber, or open`)
        this.addEventListener('segment', onSegment)
        await work(control)
        return await this.finish()
      } catch (error) {
        await this.stop().catch(() => {})
        throw error
      } finally {
        this.removeEventListener('segment', onSegment)
        if (this.#last === transcription) this.#last = undefined
      }
    })
    if (!isRefused) this.#last = transcription
    return transcription
  }

  /**
   * Send a request to the worker and return its reply.
   * @param {import('../shared/messages.js').RequestBody} body
   * @param {Transferable[]} [transfer] buffers to transfer instead of copying
   * @returns {Promise<any>}
   */
  #request(body, transfer = []) {
    if (this.#end !== undefined) return Promise.reject(this.#end)
    const id = this.#count++
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#worker.postMessage({ ...body, id }, transfer)
    })
  }

  /**
   * Dispatch an event, or settle the request that an answer belongs to.
   * @param {import('../shared/messages.js').Answer} answer
   */
  #onMessage(answer) {
    if (answer.type === 'event') {
      const { type, ...values } = answer.event
      const [detail] = Object.values(values)
      this.dispatchEvent(new CustomEvent(type, { detail }))
      return
    }
    const { resolve, reject } = this.#waiting.get(answer.id) ?? {}
    this.#waiting.delete(answer.id)
    if (answer.type === 'reply') resolve?.(answer.value)
    else reject?.(errorOf(answer.error))
  }
}

/** The end of live sound: it is over, it failed, or nobody wants it any more. */
class Ending {
  isOver = false
  end = () => {}
  fail = (/** @type {unknown} */ _error) => {}

  /** @param {import('./transcription.js').Control} control */
  constructor({ stopped, signal }) {
    this.promise = /** @type {Promise<void>} */ (new Promise((resolve, reject) => {
      this.end = () => resolve()
      this.fail = reject
    })).finally(() => (this.isOver = true))
    this.promise.catch(() => {}) // until it is awaited
    if (stopped.aborted) this.end()
    stopped.addEventListener('abort', this.end)
    signal.addEventListener('abort', () => this.fail(signal.reason))
  }
}

/**
 * Return the options that the worker gets, with an absolute address: the page's relative addresses mean something else there.
 * @param {OpenOptions} options
 * @returns {OpenOptions}
 * @throws {UsageError} they name no model, or something else than an address or a Map of files
 */
function checked(options) {
  const { artifactUrl, files, ...rest } = options ?? {}
  if (files !== undefined) {
    if (files instanceof Map) return { ...rest, files }
    throw new UsageError(`files: expected a Map from path to File, got ${kindOf(files)}; make one: new Map(list.map((file) => [file.name, file]))`)
  }
  if (typeof artifactUrl === 'string' || artifactUrl instanceof URL) {
    if (!URL.canParse(artifactUrl, document.baseURI)) throw new UsageError(`artifactUrl: expected an address, got '${artifactUrl}'`)
    return { ...rest, artifactUrl: new URL(artifactUrl, document.baseURI).href }
  }
  throw new UsageError(
    `artifactUrl: expected the address of an exported model, as in createTranscriber({ artifactUrl: '/artifact/' }), ` +
      `got ${kindOf(artifactUrl)}; to export one, run: voxtral-onnx export tiny -o artifact --precision q4f16,q4`,
  )
}
