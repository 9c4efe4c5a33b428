/** The output formats: text, SRT and WebVTT subtitles, JSON. The counterpart of captions.py, and equal to it byte for byte. */

import { UsageError, kindOf } from './errors.js'
import { roundHalfEven } from './float16.js'
import { columns } from './text-width.js'

const MAX_COLUMNS = 42 // of a caption line; an East Asian wide character takes two
const MAX_LINES = 2 // of a caption
const MAX_SECONDS = 7.0 // of a caption
const PAUSE_SECONDS = 0.2 // between a segment's end and the earliest start of the next, so surely silence
const SENTENCE_ENDS = new Set('.!?。！？؟।')
const SPACES = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u // Python's str.split
// Control characters except line feed and tab, and characters that reverse the direction of text: escaping.py
const UNPRINTABLE = /[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/gu
const ENTITIES = /** @type {Record<string, string>} */ ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })

/**
 * @typedef {import('./messages.js').Segment} Segment
 * @typedef {import('./messages.js').Transcript} Transcript
 * @typedef {Omit<Segment, 'token_ids'>} Timed
 * @typedef {{start: number, end: number, lines: string[]}} Caption the lines on screen from `start` to `end`, in seconds
 */

/**
 * Break segments into cues at sentence ends, pauses, and where lines or time are full.
 * @param {Iterable<Timed>} segments
 * @returns {Generator<Timed[]>}
 */
function* cues(segments) {
  /** @type {Timed[]} */
  let cue = []
  for (const segment of inMilliseconds(segments)) {
    const isFull =
      cue.length > 0 &&
      (segment.start - cue[cue.length - 1].end > PAUSE_SECONDS ||
        segment.end - cue[0].start > MAX_SECONDS ||
        wrap(textOf([...cue, segment])).length > MAX_LINES)
    if (isFull) {
      yield cue
      cue = []
    }
    cue.push(segment)
    const last = segment.text.split(SPACES).filter(Boolean).at(-1)?.at(-1)
    if (last && SENTENCE_ENDS.has(last)) {
      yield cue
      cue = []
    }
  }
  if (cue.length > 0) yield cue
}

/**
 * Yield the captions of cues, whose times are whole milliseconds.
 * @param {Iterable<Timed>} segments
 * @returns {Generator<Caption>}
 */
export function* captions(segments) {
  yield* inMilliseconds(Array.from(cues(segments), (cue) => [...screens(cue)]).flat())
}

/**
 * Round times to milliseconds: each span lasts one at least, and none begins before the one before it has ended.
 * @template {{start: number, end: number}} Span
 * @param {Iterable<Span>} spans
 * @returns {Generator<Span>}
 */
function* inMilliseconds(spans) {
  let ended = 0
  for (const span of spans) {
    const start = Math.max(ended, roundHalfEven(1000 * span.start))
    ended = Math.max(start + 1, roundHalfEven(1000 * span.end))
    yield { ...span, start: start / 1000, end: ended / 1000 }
  }
}

/**
 * Return SubRip subtitles.
 * @param {Iterable<Timed>} segments
 */
function toSrt(segments) {
  const blocks = Array.from(captions(segments), ({ start, end, lines }, i) => {
    const times = `${clock(start)} --> ${clock(end)}`.replaceAll('.', ',')
    return `${i + 1}\n${times}\n${lines.join('\n').replaceAll('-->', '->')}\n`
  })
  return blocks.join('\n')
}

/**
 * Return WebVTT subtitles.
 * @param {Iterable<Timed>} segments
 */
function toVtt(segments) {
  const blocks = Array.from(captions(segments), ({ start, end, lines }) => {
    const text = lines.join('\n').replace(/[&<>]/g, (character) => ENTITIES[character])
    return `${clock(start)} --> ${clock(end)}\n${text}\n`
  })
  return ['WEBVTT\n', ...blocks].join('\n')
}

/**
 * Return a transcript with the keys and values of its JSON.
 * @param {{segments: Timed[], token_ids: number[], duration: number, info: Record<string, unknown>}} found
 * @returns {Transcript}
 */
export function transcriptOf({ segments, token_ids, duration, info }) {
  const timed = [...inMilliseconds(segments)]
  return {
    text: plainText(segments),
    segments: timed.map(({ id, start, end, text, avg_logprob }) => ({ id, start, end, text, avg_logprob: rounded(avg_logprob, 4) })),
    cues: Array.from(cues(timed), (cue) => ({
      start: cue[0].start,
      end: cue[cue.length - 1].end,
      text: textOf(cue),
      words: cue.map(({ text: word, start, end, avg_logprob }) => ({ word, start, end, probability: rounded(Math.exp(avg_logprob), 4) })),
    })),
    duration: rounded(duration, 3),
    token_ids,
    info,
  }
}

/**
 * Return the whole text, without the space before its first word.
 * @param {Timed[]} segments
 */
function plainText(segments) {
  return textOf(segments).replace(/^ /, '')
}

/** @type {Record<string, (transcript: Transcript) => string>} */
const RENDERERS = {
  txt: ({ text }) => text + '\n',
  srt: ({ segments }) => toSrt(segments),
  vtt: ({ segments }) => toVtt(segments),
  json: (transcript) => JSON.stringify(transcript) + '\n',
}
/** The formats that `render` writes. */
export const FORMATS = Object.keys(RENDERERS)

/**
 * Return the transcript in one of FORMATS; control characters are written as escapes.
 * @param {Transcript} transcript
 * @param {string} format
 */
export function render(transcript, format) {
  if (!FORMATS.includes(format)) throw new UsageError(`render: expected one of ${FORMATS.join(', ')}, got ${kindOf(format)}`)
  return RENDERERS[format](transcript).replace(
    UNPRINTABLE,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  )
}

/**
 * Return a time as subtitles write it, `HH:MM:SS.mmm`.
 * @param {number} seconds
 */
export function clock(seconds) {
  const milliseconds = roundHalfEven(seconds * 1000)
  const parts = [milliseconds / 3_600_000, (milliseconds / 60_000) % 60, (milliseconds / 1000) % 60]
  const [hours, minutes, whole] = parts.map((part) => String(Math.floor(part)).padStart(2, '0'))
  return `${hours}:${minutes}:${whole}.${String(milliseconds % 1000).padStart(3, '0')}`
}

/**
 * Return the joined text of segments.
 * @param {Timed[]} segments
 */
function textOf(segments) {
  return segments.map((segment) => segment.text).join('')
}

/**
 * Yield the caption of some segments: several that share the time where the text needs more lines, none where it is blank.
 * @param {Timed[]} segments
 * @returns {Generator<Caption>}
 */
function* screens(segments) {
  const lines = wrap(textOf(segments))
  if (!lines[0]) return
  const start = segments[0].start
  const count = Math.ceil(lines.length / MAX_LINES)
  const seconds = (segments[segments.length - 1].end - start) / count
  for (let i = 0; i < count; i++) {
    const screen = lines.slice(i * MAX_LINES, (i + 1) * MAX_LINES)
    yield { start: start + i * seconds, end: start + (i + 1) * seconds, lines: screen }
  }
}

/**
 * Wrap text into lines of at most MAX_COLUMNS, at spaces; inside a word only where the word is longer than a line.
 * @param {string} text
 */
function wrap(text) {
  const lines = ['']
  for (const word of text.split(SPACES).filter(Boolean)) {
    const last = lines[lines.length - 1]
    const joined = last ? `${last} ${word}` : word
    if (columns(joined) <= MAX_COLUMNS) {
      lines[lines.length - 1] = joined
      continue
    }
    if (last) lines.push('')
    for (const character of word) {
      if (columns(lines[lines.length - 1] + character) > MAX_COLUMNS) lines.push('')
      lines[lines.length - 1] += character
    }
  }
  return lines
}

/**
 * Round to decimal places as Python's `round` does, which takes exact ties to even.
 * @param {number} value
 * @param {number} digits
 */
function rounded(value, digits) {
  const isTie = Number.isInteger(value * 2 ** (digits + 1)) && Math.abs((value * 10 ** digits) % 1) === 0.5
  return isTie ? roundHalfEven(value * 10 ** digits) / 10 ** digits : Number(value.toFixed(digits))
}
