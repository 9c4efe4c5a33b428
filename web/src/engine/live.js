/**
 * Sound as it is spoken to events (live.py). Nothing is dropped: a stream that is behind takes all that waits at once, and
 * the encoder then works in larger, cheaper chunks.
 */

import { plainText } from '../shared/captions.js'
import { Grouper } from './segments.js'
import { checkSamples } from './stream.js'

const RECENT_STEPS = 4096 // whose latency the meter knows: 5.5 minutes
const SILENCE_SECONDS = 2.0 // without text until a silence is told
const BEHIND_SECONDS = 2.0 // of audio that waits until it is told
const MUTED_SECONDS = 5.0 // of samples that are all zero
const CLIPPED = 0.999 // full scale; a converter's largest value is just below 1

/**
 * @typedef {import('./stream.js').Token} Token
 * @typedef {import('./segments.js').Segment} Segment
 * @typedef {object} Meter how a stream keeps up
 * @property {number} captured seconds of audio
 * @property {number} backlog seconds of audio that wait
 * @property {number} rtf seconds of work for a second of audio
 * @property {number} latencyP50 milliseconds from the arrival of the last sample a token may use to its text
 * @property {number} latencyP95
 * @typedef {{type: 'token', token: Token} | {type: 'segment', segment: Segment} | {type: 'silence', start: number} |
 *   {type: 'notice', text: string} | {type: 'meter', meter: Meter}} LiveEvent
 */

/** One stream while it is fed. */
export class Live {
  /**
   * @param {import('./stream.js').Stream} stream
   * @param {(event: LiveEvent) => void} tell
   */
  constructor(stream, tell) {
    this.stream = stream
    this.tell = tell
    this.grouper = new Grouper(stream.ids)
    /** @type {Segment[]} */
    this.segments = []
    /** @type {number[]} the generated ids, blanks included */
    this.tokenIds = []
    /** @type {{samples: Float32Array}[]} */
    this.waiting = []
    this.captured = 0 // samples
    /** @type {{count: number, time: number}[]} samples captured up to and with each block, and when */
    this.arrivals = []
    /** @type {number[]} */
    this.latencies = []
    this.textEnd = 0
    this.isSilent = false
    this.zeros = 0 // samples in a row, up to now
    /** @type {Set<string>} notices, each told once */
    this.said = new Set()
  }

  /**
   * Take samples that have arrived; `advance` transcribes them.
   * @param {Float32Array} samples
   * @param {number} time of `performance.now()`
   */
  arrive(samples, time) {
    checkSamples(samples)
    this.waiting.push({ samples })
    this.captured += samples.length
    this.arrivals.push({ count: this.captured, time })
  }

  /** Transcribe all that waits. */
  async advance() {
    const blocks = this.waiting.splice(0).map(({ samples }) => samples)
    const samples = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0))
    let at = 0
    for (const block of blocks) {
      samples.set(block, at)
      at += block.length
    }
    this.look(samples)
    for await (const token of this.stream.feed(samples)) this.decided(token)
    this.tell({ type: 'meter', meter: this.meter() })
  }

  /** Transcribe what is still delayed; the whole transcript. */
  async finish() {
    for await (const token of this.stream.finish()) this.decided(token)
    this.add(this.grouper.end())
    this.tell({ type: 'meter', meter: this.meter() })
    return this.transcript()
  }

  /** @returns {import('../shared/captions.js').Transcript & {text: string}} */
  transcript() {
    const duration = this.captured / this.stream.sampleRate
    const clamp = (/** @type {number} */ seconds) => Math.min(seconds, duration)
    const segments = this.segments.map((s) => ({ ...s, start: clamp(s.start), end: clamp(s.end) }))
    const { timings, numDelayTokens, overrides } = this.stream
    const info = {
      delay_ms: numDelayTokens * this.stream.transcriber.manifest.msPerToken,
      blank_guard: overrides.length,
      encode_ms: Math.round(10_000 * timings.encodeSeconds) / 10,
      decode_ms: Math.round(10_000 * timings.decodeSeconds) / 10,
    }
    return { text: plainText(segments), segments, tokenIds: this.tokenIds, duration, info }
  }

  /** @returns {Meter} */
  meter() {
    const { timings, samples, sampleRate } = this.stream
    const captured = this.captured / sampleRate
    const transcribed = Math.min(captured, Math.max(0, this.stream.numSamples - samples.length) / sampleRate)
    const sorted = this.latencies.toSorted((a, b) => a - b)
    const percentile = (/** @type {number} */ percent) => sorted[Math.floor((percent / 100) * (sorted.length - 1))] ?? 0
    return {
      captured,
      backlog: captured - transcribed,
      rtf: transcribed > 0 ? (timings.encodeSeconds + timings.decodeSeconds) / transcribed : 0,
      latencyP50: percentile(50),
      latencyP95: percentile(95),
    }
  }

  /** @param {Token} token */
  decided(token) {
    this.tokenIds.push(token.tokenId)
    const { numDelayTokens, samplesPerToken, rules, numSamples } = this.stream
    const needed = (token.index + 1 + numDelayTokens) * samplesPerToken + rules.look_ahead_samples
    if (needed <= numSamples) {
      while (this.arrivals.length > 1 && this.arrivals[0].count < needed) this.arrivals.shift()
      this.latencies.push(performance.now() - this.arrivals[0].time)
      if (this.latencies.length > RECENT_STEPS) this.latencies.shift()
    }
    if (token.text) {
      this.tell({ type: 'token', token })
      this.textEnd = token.end
      this.isSilent = false
    } else if (!this.isSilent && token.end - this.textEnd > SILENCE_SECONDS) {
      this.tell({ type: 'silence', start: this.textEnd })
      this.isSilent = true
    }
    this.add(this.grouper.push(token))
  }

  /** @param {Segment | undefined} segment */
  add(segment) {
    if (!segment) return
    this.segments.push(segment)
    this.tell({ type: 'segment', segment })
  }

  /**
   * Tell what a speaker should know.
   * @param {Float32Array} samples
   */
  look(samples) {
    let [longest, clipped] = [0, 0]
    for (const sample of samples) {
      this.zeros = sample === 0 ? this.zeros + 1 : 0
      longest = Math.max(longest, this.zeros)
      if (Math.abs(sample) >= CLIPPED) clipped += 1
    }
    this.notice(
      longest >= MUTED_SECONDS * this.stream.sampleRate,
      `the input has been digital silence for ${MUTED_SECONDS} s: is it muted?`,
    )
    this.notice(clipped > samples.length / 100, 'the input exceeds full scale: turn it down')
  }

  /** Tell that the machine does not keep up; for sound that is spoken, not for files. */
  watchBacklog() {
    const isBehind = this.meter().backlog > BEHIND_SECONDS
    this.notice(
      isBehind,
      `more than ${BEHIND_SECONDS} s behind: this machine is slower than the speech; text comes late, nothing is lost`,
    )
  }

  /**
   * @param {boolean} isSo
   * @param {string} text
   */
  notice(isSo, text) {
    if (!isSo || this.said.has(text)) return
    this.said.add(text)
    this.tell({ type: 'notice', text })
  }
}
