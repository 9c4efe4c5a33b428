/**
 * Live transcription: samples in as they are spoken, events out (as runtime/live/session.py). Nothing is dropped: a stream that is behind
 * takes all waiting samples at once, and the encoder then works in larger, cheaper chunks.
 */

import { transcriptOf } from '../shared/captions.js'
import { Grouper, within } from './segments.js'
import { checkSamples } from './stream.js'

const RECENT_STEPS = 4096 // tokens in the latency percentiles: 5.5 minutes
const SILENCE_SECONDS = 2.0 // without text, after which a silence is reported
const BEHIND_SECONDS = 2.0 // of waiting audio, after which a warning comes
const MUTED_SECONDS = 5.0 // of samples that are all zero, after which a warning comes
const CLIPPED = 0.999 // of full scale; a converter's largest value is just below 1

/**
 * @typedef {import('../shared/messages.js').Segment} Segment
 * @typedef {import('../shared/messages.js').StreamEvent} StreamEvent
 * @typedef {import('../shared/messages.js').StreamMetrics} StreamMetrics
 * @typedef {import('../shared/messages.js').Token} Token
 * @typedef {import('../shared/messages.js').Transcript} Transcript
 */

/** The live transcription of one stream. */
export class Live {
  /**
   * @param {import('./stream.js').Stream} stream
   * @param {(event: StreamEvent) => void} emit
   */
  constructor(stream, emit) {
    this.stream = stream
    this.emit = emit
    this.grouper = new Grouper(stream.ids)
    /** @type {Segment[]} */
    this.segments = []
    /** @type {number[]} the generated ids, blanks included */
    this.tokenIds = []
    /** @type {{samples: Float32Array}[]} */
    this.waiting = []
    this.captured = 0 // samples
    /** @type {{count: number, time: number}[]} samples captured up to and including each block, and when it arrived */
    this.arrivals = []
    /** @type {number[]} */
    this.latencies = []
    this.textEnd = 0
    this.isSilent = false
    this.zeros = 0 // zero samples in a row
    /** @type {Set<string>} warnings that were reported: each comes once */
    this.reported = new Set()
  }

  /**
   * Queue samples that have arrived; `advance` transcribes them.
   * @param {Float32Array} samples
   * @param {number} time when they arrived, by `performance.now()`
   */
  arrive(samples, time) {
    checkSamples(samples)
    this.waiting.push({ samples })
    this.captured += samples.length
    this.arrivals.push({ count: this.captured, time })
  }

  /** Transcribe all waiting samples. */
  async advance() {
    const blocks = this.waiting.splice(0).map(({ samples }) => samples)
    const samples = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0))
    let at = 0
    for (const block of blocks) {
      samples.set(block, at)
      at += block.length
    }
    this.inspect(samples)
    for await (const token of this.stream.feed(samples)) this.acceptToken(token)
    this.emit({ type: 'metrics', metrics: this.metrics() })
  }

  /** Transcribe what is still delayed and return the whole transcript. */
  async finish() {
    for await (const token of this.stream.finish()) this.acceptToken(token)
    this.add(this.grouper.end())
    this.emit({ type: 'metrics', metrics: this.metrics() })
    return this.transcript()
  }

  /**
   * Return the transcript so far; no time is beyond the audio.
   * @returns {Transcript}
   */
  transcript() {
    const duration = this.captured / this.stream.sampleRate
    const segments = this.segments.map((segment) => within(segment, duration))
    const { timings, numDelayTokens, overrides } = this.stream
    const info = {
      delay_ms: numDelayTokens * this.stream.transcriber.manifest.msPerToken,
      blank_guard: overrides.length,
      encode_ms: Math.round(10_000 * timings.encodeSeconds) / 10,
      decode_ms: Math.round(10_000 * timings.decodeSeconds) / 10,
    }
    return transcriptOf({ segments, token_ids: this.tokenIds, duration, info })
  }

  /**
   * Return how well the stream keeps up.
   * @returns {StreamMetrics}
   */
  metrics() {
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

  /**
   * Measure a token's latency, and emit the events that follow from it.
   * @param {Token} token
   */
  acceptToken(token) {
    this.tokenIds.push(token.tokenId)

    // Tokens that the padding at the end decides wait for no sample
    const { numDelayTokens, samplesPerToken, rules, numSamples } = this.stream
    const needed = (token.index + 1 + numDelayTokens) * samplesPerToken + rules.look_ahead_samples
    if (needed <= numSamples) {
      while (this.arrivals.length > 1 && this.arrivals[0].count < needed) this.arrivals.shift()
      this.latencies.push(performance.now() - this.arrivals[0].time)
      if (this.latencies.length > RECENT_STEPS) this.latencies.shift()
    }

    // Text, silence and segments
    if (token.text) {
      this.emit({ type: 'token', token })
      this.textEnd = token.end
      this.isSilent = false
    } else if (!this.isSilent && token.end - this.textEnd > SILENCE_SECONDS) {
      this.emit({ type: 'silence', start: this.textEnd })
      this.isSilent = true
    }
    this.add(this.grouper.push(token))
  }

  /**
   * Add a complete segment to the transcript, where there is one.
   * @param {Segment | undefined} segment
   */
  add(segment) {
    if (!segment) return
    this.segments.push(segment)
    this.emit({ type: 'segment', segment })
  }

  /**
   * Warn of samples that come from a muted or clipping input.
   * @param {Float32Array} samples
   */
  inspect(samples) {
    let [longest, clipped] = [0, 0]
    for (const sample of samples) {
      this.zeros = sample === 0 ? this.zeros + 1 : 0
      longest = Math.max(longest, this.zeros)
      if (Math.abs(sample) >= CLIPPED) clipped += 1
    }
    this.warn(
      longest >= MUTED_SECONDS * this.stream.sampleRate,
      `the input has been digital silence for ${MUTED_SECONDS} s: is it muted?`,
    )
    this.warn(clipped > samples.length / 100, 'the input exceeds full scale: turn it down')
  }

  /** Warn where the machine does not keep up; for live audio, not for files. */
  watchBacklog() {
    const isBehind = this.metrics().backlog > BEHIND_SECONDS
    this.warn(
      isBehind,
      `more than ${BEHIND_SECONDS} s behind: this machine is slower than the speech; text comes late, nothing is lost`,
    )
  }

  /**
   * Emit a warning where its condition holds, once in a stream.
   * @param {boolean} isSo
   * @param {string} text
   */
  warn(isSo, text) {
    if (!isSo || this.reported.has(text)) return
    this.reported.add(text)
    this.emit({ type: 'warning', text })
  }
}
