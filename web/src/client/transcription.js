/** The transcription of one recording or of live sound: a promise of the transcript that yields segments on the way. */

/**
 * @typedef {import('../shared/messages.js').Segment} Segment
 * @typedef {import('../shared/messages.js').Transcript} Transcript
 *
 * @typedef {object} Control what the work of a transcription gets
 * @property {AbortSignal} stopped aborted where the audio is to end early
 * @property {AbortSignal} signal aborted where nothing is wanted any more
 * @property {(segment: Segment) => void} push
 */

/**
 * A transcription that runs: `await` it for its transcript, or take its segments one by one with `for await`. A loop that is
 * left with `break` stops it.
 * @implements {PromiseLike<Transcript>}
 */
export class Transcription {
  #stopping = new AbortController()
  /** @type {Segment[]} */
  #segments = []
  #isSettled = false
  /** @type {(() => void)[]} loops that wait for a segment */
  #waiting = []
  #transcript

  /**
   * @param {boolean} isLive
   * @param {AbortSignal | undefined} signal
   * @param {(control: Control) => Promise<Transcript>} work
   */
  constructor(isLive, signal, work) {
    /** Whether it is one of live sound, which ends when its sound does. */
    this.isLive = isLive
    this.#transcript = this.#run(signal ?? new AbortController().signal, work)
  }

  /**
   * End the audio here; its last words are still transcribed.
   * @returns {Promise<Transcript>}
   */
  stop() {
    this.#stopping.abort()
    return this.#transcript
  }

  /**
   * Call back with the transcript or an error, as promises do.
   * @template [A=Transcript]
   * @template [B=never]
   * @param {((transcript: Transcript) => A | PromiseLike<A>) | null} [onTranscript]
   * @param {((error: any) => B | PromiseLike<B>) | null} [onError]
   * @returns {Promise<A | B>}
   */
  then(onTranscript, onError) {
    return this.#transcript.then(onTranscript, onError)
  }

  /**
   * Call back with an error, as promises do.
   * @template [B=never]
   * @param {((error: any) => B | PromiseLike<B>) | null} [onError]
   * @returns {Promise<Transcript | B>}
   */
  catch(onError) {
    return this.#transcript.catch(onError)
  }

  /**
   * Call back when it is done or has failed, as promises do.
   * @param {(() => void) | null} [onSettled]
   * @returns {Promise<Transcript>}
   */
  finally(onSettled) {
    return this.#transcript.finally(onSettled)
  }

  /**
   * Yield its segments from the first on, as they are completed.
   * @returns {AsyncGenerator<Segment, void>}
   */
  async *[Symbol.asyncIterator]() {
    try {
      for (let at = 0; ; at++) {
        while (at === this.#segments.length && !this.#isSettled) await new Promise((ok) => this.#waiting.push(() => ok(undefined)))
        if (at === this.#segments.length) break
        yield this.#segments[at]
      }
      await this.#transcript // throws what went wrong
    } finally {
      this.#stopping.abort()
    }
  }

  /**
   * Do the work, and wake the loops that wait.
   * @param {AbortSignal} signal
   * @param {(control: Control) => Promise<Transcript>} work
   */
  async #run(signal, work) {
    await undefined // whoever starts it has it by name before its work begins
    const push = (/** @type {Segment} */ segment) => {
      this.#segments.push(segment)
      this.#wake()
    }
    try {
      signal.throwIfAborted()
      return await work({ stopped: this.#stopping.signal, signal, push })
    } finally {
      this.#isSettled = true
      this.#wake()
    }
  }

  /** Let the loops that wait look again. */
  #wake() {
    for (const wake of this.#waiting.splice(0)) wake()
  }
}
