/** The transcript on the page: paragraphs of segments with their times; text that may still change is dimmed. */

import { clock, render, transcriptOf } from '../shared/captions.js'

const UNCERTAIN = Math.log(0.5) // mean log-probability of a segment's tokens below which it is marked
const PARAGRAPH_SECONDS = 2 // of silence that begins a new paragraph
const KEY = 'voxtral-onnx transcript' // in localStorage

/** @typedef {import('../shared/messages.js').Segment} Segment */

/** The view of the transcript, which survives a reload of the page. */
export class TranscriptView {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element
    this.pending = document.createElement('span')
    this.pending.className = 'pending'
    /** @type {HTMLElement | undefined} */
    this.paragraph = undefined
    /** @type {Segment[]} */
    this.segments = []
    this.offset = 0 // seconds of the streams before the one that is shown now
    this.duration = 0
    this.restore()
  }

  /** Begin another stream after the text that is there. */
  begin() {
    this.offset = this.duration
    this.paragraph = undefined
  }

  /**
   * Show a token's text dimmed until its segment is complete.
   * @param {import('../shared/messages.js').Token} token
   */
  token(token) {
    this.pending.textContent += token.text
    this.current().append(this.pending)
    this.scroll()
  }

  /**
   * Replace dimmed text by a segment that is complete, and save the transcript.
   * @param {Segment} segment with times from the start of its stream
   */
  segment(segment) {
    const shifted = { ...segment, start: segment.start + this.offset, end: segment.end + this.offset }
    this.pending.textContent = (this.pending.textContent ?? '').slice(segment.text.length)
    this.add({ ...shifted, id: this.segments.length })
    localStorage.setItem(KEY, JSON.stringify({ segments: this.segments, duration: this.duration }))
  }

  /**
   * Append a segment, in a new paragraph after a pause.
   * @param {Segment} segment with times from the start of the transcript
   */
  add(segment) {
    const last = this.segments[this.segments.length - 1]
    if (last && segment.start - last.end > PARAGRAPH_SECONDS) this.paragraph = undefined
    const span = document.createElement('span')
    span.textContent = segment.text
    span.title = `ends at ${clock(segment.end)}, confidence ${Math.round(100 * Math.exp(segment.avg_logprob))} %`
    if (segment.avg_logprob < UNCERTAIN) span.className = 'uncertain'
    const paragraph = this.current(segment.start)
    this.pending.remove()
    paragraph.append(span)
    if (this.pending.textContent) paragraph.append(this.pending)
    this.segments.push(segment)
    this.duration = Math.max(this.duration, segment.end)
    this.scroll()
  }

  /**
   * Return the paragraph that is written to; begin one where there is none.
   * @param {number} [start] seconds shown at the head of a new one
   */
  current(start = this.duration) {
    if (!this.paragraph) {
      const time = document.createElement('time')
      time.textContent = clock(start).slice(0, 8)
      this.paragraph = document.createElement('p')
      this.paragraph.dir = 'auto'
      this.paragraph.append(time)
      this.element.append(this.paragraph)
    }
    return this.paragraph
  }

  /**
   * Return the transcript in one of the formats of captions.js.
   * @param {string} format
   * @param {Record<string, unknown>} [info]
   */
  render(format, info = {}) {
    const { segments, duration } = this
    return render(transcriptOf({ segments, token_ids: segments.flatMap((segment) => segment.token_ids), duration, info }), format)
  }

  /** Delete the transcript, the saved one too. */
  clear() {
    localStorage.removeItem(KEY)
    this.element.replaceChildren()
    this.pending.textContent = ''
    this.paragraph = undefined
    this.segments = []
    this.offset = this.duration = 0
  }

  /** Show the transcript that was saved before the page was reloaded. */
  restore() {
    const saved = localStorage.getItem(KEY)
    if (!saved) return
    const { segments, duration } = JSON.parse(saved)
    for (const { tokenIds: token_ids, logprob: avg_logprob, ...segment } of segments) {
      this.add({ token_ids, avg_logprob, ...segment }) // the first two names are those of version 0.2.0
    }
    this.duration = duration
    this.begin()
  }

  /** Scroll to the last line. */
  scroll() {
    this.element.scrollTop = this.element.scrollHeight
  }
}
