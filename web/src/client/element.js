/**
 * The element `<voxtral-captions>`: a button, and what is said in the microphone, in captions. Importing this module is enough:
 *
 *     <voxtral-captions artifact="/artifact/"></voxtral-captions>
 */

import { createTranscriber } from './transcriber.js'

/**
 * @typedef {import('./transcriber.js').TranscriberClient} TranscriberClient
 * @typedef {import('./transcription.js').Transcription} Transcription
 */

const TEMPLATE = `
  <button part="button" type="button"><slot name="start">Start captions</slot><slot name="stop" hidden>Stop</slot></button>
  <span part="state" role="status"></span>
  <div part="text" role="log" aria-label="Captions" tabindex="0" dir="auto"></div>`
const STYLE = `
  :host { display: block; }
  [hidden] { display: none; }
  [part=text] { font-size: 1.5em; line-height: 1.4; height: calc(1.4em * var(--lines, 2)); overflow: auto; margin-top: 0.25em; }
  .pending { opacity: 0.6; }`

const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {}) // servers load this module too

/**
 * The element `<voxtral-captions>`, which `import 'voxtral-onnx-web/element'` defines: a button, and captions of the microphone
 * or of another media stream. Attributes: `artifact`, the address of the model, and `delay`, in milliseconds. Its button's
 * words are the slots `start` and `stop`; its parts are `button`, `state` and `text`, and `--lines` is the number of lines.
 */
export class VoxtralCaptions extends Base {
  /**
   * What it transcribes with; it makes one of the attribute `artifact` where there is none.
   * @type {TranscriberClient | undefined}
   */
  transcriber
  /**
   * What it shows now.
   * @type {Transcription | undefined}
   */
  transcription
  #text = document.createElement('span')
  #pending = Object.assign(document.createElement('span'), { className: 'pending' })
  #stops = new AbortController()
  #isBusy = false

  /** Make its shadow tree. */
  constructor() {
    super()
    const root = this.attachShadow({ mode: 'open' })
    const style = new CSSStyleSheet() // which policies allow that forbid style elements
    style.replaceSync(STYLE)
    root.adoptedStyleSheets = [style]
    root.innerHTML = TEMPLATE
    this.#part('text').append(this.#text, this.#pending)
    this.#part('button').addEventListener('click', () => void (this.#isBusy ? this.stop() : this.listen().catch(() => {})))
  }

  /** Stop when it is taken out of the page. */
  disconnectedCallback() {
    this.stop()
  }

  /**
   * Caption a media stream until it ends or `stop` is called. Events: `segment`, `transcript` and `error`, with the segment,
   * the whole transcript or the error in their `detail`.
   * @param {MediaStream} [media] the microphone where there is none
   * @returns {Promise<import('../shared/messages.js').Transcript>}
   */
  async listen(media) {
    this.#stops = new AbortController()
    const { signal } = this.#stops
    let own
    this.#show(true, '…')
    try {
      const onProgress = (/** @type {import('../shared/messages.js').Progress} */ { received, total }) =>
        this.#show(true, `${Math.round((100 * received) / total)} %`)
      this.transcriber ??= await createTranscriber({ artifactUrl: this.getAttribute('artifact') ?? '', onProgress, signal })
      own = media ? undefined : await navigator.mediaDevices.getUserMedia({ audio: true })
      return await this.#caption(media ?? /** @type {MediaStream} */ (own), this.transcriber, signal)
    } catch (error) {
      this.#show(false, error instanceof Error ? error.message : String(error))
      this.#tell('error', error)
      throw error
    } finally {
      for (const track of own?.getTracks() ?? []) track.stop()
      this.transcription = undefined
      this.#isBusy = false
    }
  }

  /** Stop; the last words are still shown. */
  stop() {
    if (this.transcription) {
      this.#part('state').textContent = '…'
      void this.transcription.stop().catch(() => {})
    } else this.#stops.abort(new DOMException('stopped before it listened', 'AbortError'))
  }

  /**
   * Show the words of a media stream as they come.
   * @param {MediaStream} media
   * @param {TranscriberClient} transcriber
   * @param {AbortSignal} signal
   */
  async #caption(media, transcriber, signal) {
    signal.throwIfAborted()
    const delay = this.getAttribute('delay')
    const onToken = (/** @type {CustomEvent<import('../shared/messages.js').Token>} */ { detail }) => {
      this.#pending.textContent += detail.text
      this.#part('text').scrollTop = this.#part('text').scrollHeight
    }
    const onWarning = (/** @type {CustomEvent<string>} */ { detail }) => this.#show(true, detail)
    transcriber.addEventListener('token', onToken)
    transcriber.addEventListener('warning', onWarning)
    this.#text.textContent = this.#pending.textContent = ''
    this.#show(true, '')
    try {
      this.transcription = transcriber.listen(media, delay === null ? {} : { delayMs: Number(delay) })
      for await (const segment of this.transcription) {
        this.#text.textContent += segment.text
        this.#pending.textContent = (this.#pending.textContent ?? '').slice(segment.text.length)
        this.#tell('segment', segment)
      }
      const transcript = await this.transcription
      this.#show(false, '')
      this.#tell('transcript', transcript)
      return transcript
    } finally {
      transcriber.removeEventListener('token', onToken)
      transcriber.removeEventListener('warning', onWarning)
    }
  }

  /**
   * Show what it does.
   * @param {boolean} isBusy
   * @param {string} state
   */
  #show(isBusy, state) {
    this.#isBusy = isBusy
    this.#part('state').textContent = state
    for (const name of ['start', 'stop']) {
      const slot = /** @type {HTMLElement} */ (this.shadowRoot?.querySelector(`[name=${name}]`))
      slot.hidden = isBusy === (name === 'start')
    }
  }

  /**
   * Dispatch an event.
   * @param {string} type
   * @param {unknown} detail
   */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }

  /**
   * Return one of its parts.
   * @param {'button' | 'state' | 'text'} name
   */
  #part(name) {
    return /** @type {HTMLElement} */ (this.shadowRoot?.querySelector(`[part=${name}]`))
  }
}

globalThis.customElements?.define('voxtral-captions', VoxtralCaptions)
