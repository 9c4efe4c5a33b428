/** The transcript on the page: paragraphs of segments with their times; what is still open is shown dimmed. */

import { clock, render } from '../shared/captions.js'

const UNCERTAIN = Math.log(0.5) // mean log-probability of a segment's tokens below which it is marked
const PARAGRAPH_SECONDS = 2 // of silence between two paragraphs
const KEY = 'voxtral-onnx transcript'

/** @typedef {import('../engine/segments.js').Segment} Segment */

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
    this.offset = 0 // seconds of what stands before the stream that is shown now
    this.duration = 0
    this.restore()
  }

  /** Show another stream behind what is there. */
  begin() {
    this.offset = this.duration
    this.paragraph = undefined
  }

  /**
   * A token's text, before its segment is whole.
   * @param {import('../engine/stream.js').Token} token
   */
  token(token) {
    this.pending.textContent += token.text
    this.current().append(this.pending)
    this.scroll()
  }

  /**
   * A segment that is whole.
   * @param {Segment} segment of the stream
   */
  segment(segment) {
    const shifted = { ...segment, start: segment.start + this.offset, end: segment.end + this.offset }
    this.pending.textContent = (this.pending.textContent ?? '').slice(segment.text.length)
    this.add({ ...shifted, id: this.segments.length })
    localStorage.setItem(KEY, JSON.stringify({ segments: this.segments, duration: this.duration }))
  }

  /** @param {Segment} segment */
  add(segment) {
    const last = this.segments[this.segments.length - 1]
    if (last && segment.start - last.end > PARAGRAPH_SECONDS) this.paragraph = undefined
    const span = document.createElement('span')
    span.textContent = segment.text
    span.title = `${clock(segment.end)}, ${Math.round(100 * Math.exp(segment.logprob))} %`
    if (segment.logprob < UNCERTAIN) span.className = 'uncertain'
    const paragraph = this.current(segment.start)
    this.pending.remove()
    paragraph.append(span)
    if (this.pending.textContent) paragraph.append(this.pending)
    this.segments.push(segment)
    this.duration = Math.max(this.duration, segment.end)
    this.scroll()
  }

  /**
   * The paragraph that is written to.
   * @param {number} [start] seconds, of a new one
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
   * In one of the formats of captions.js.
   * @param {string} format
   * @param {Record<string, unknown>} [info]
   */
  render(format, info = {}) {
    const { segments, duration } = this
    const tokenIds = segments.flatMap((segment) => segment.tokenIds)
    return render({ segments, tokenIds, duration, info }, format)
  }

  clear() {
    localStorage.removeItem(KEY)
    this.element.replaceChildren()
    this.pending.textContent = ''
    this.paragraph = undefined
    this.segments = []
    this.offset = this.duration = 0
  }

  /** What stood here before the page was reloaded. */
  restore() {
    const saved = localStorage.getItem(KEY)
    if (!saved) return
    const { segments, duration } = JSON.parse(saved)
    for (const segment of segments) this.add(segment)
    this.duration = duration
    this.begin()
  }

  scroll() {
    this.element.scrollTop = this.element.scrollHeight
  }
}
