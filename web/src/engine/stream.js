/** One stream of audio to tokens: feed any number of samples, get what is decided, finish (stream.py). */

import { AudioError } from '../shared/errors.js'
import { TextPieces } from './tokenizer.js'

const BLANKS_UNPENALISED = 200 // in a row, 16 s; pauses in speech were seen up to 165 (vLLM pull request 47615)
const BLANK_PENALTY_STEP = 0.5 // of a logit, for each blank beyond
const MAX_BLANK_PENALTY = 7.0

/**
 * @typedef {object} Token one generated token: 80 ms of audio
 * @property {number} index from 0, the prompt not counted
 * @property {number} tokenId
 * @property {string} text what this token completes; empty for blanks and inside a character
 * @property {number} end seconds of audio that this token stands for the end of, the delay taken off
 * @property {number} logprob
 * @property {number} blankMargin logit of the blank less the best other one
 *
 * @typedef {object} Override a decision that the blank guard turned: a word instead of one more blank
 * @property {number} index of the token
 * @property {number} blanks in a row before it
 * @property {number} blankMargin by which the blank would have won
 * @property {number} penalty
 */

/**
 * Audio in, tokens out, at constant memory for any length. Identical tokens whatever the sizes of the chunks fed:
 * positions, shifts of the cache and the end depend on the count of samples alone.
 */
export class Stream {
  /**
   * Made by `Transcriber.stream`.
   * @param {import('./transcriber.js').Transcriber} transcriber
   * @param {number} numDelayTokens
   * @param {boolean} stopAtEos the model's end of text ends a file, but no live stream: people go on talking
   */
  constructor(transcriber, numDelayTokens, stopAtEos) {
    const { manifest } = transcriber
    this.transcriber = transcriber
    this.numDelayTokens = numDelayTokens
    this.stopAtEos = stopAtEos
    this.guard = transcriber.blankGuard
    this.rules = manifest.streaming
    this.ids = manifest.tokens
    this.samplesPerToken = manifest.samplesPerToken
    this.sampleRate = manifest.config.audio.sample_rate
    this.encoderCache = transcriber.encoder.newCache()
    this.decoderCache = transcriber.decoder.newCache()
    this.promptLength = 1 + this.rules.left_pad_tokens + numDelayTokens
    this.numSamples = 0 // fed
    this.numGenerated = 0
    this.nextId = this.ids.bos
    this.blanks = 0 // generated in a row
    /** @type {Override[]} what the blank guard did */
    this.overrides = []
    this.finished = false
    this.text = new TextPieces(transcriber.tokenizer)
    this.timings = { encodeSeconds: 0, decodeSeconds: 0, steps: 0 }
    const silence = this.rules.look_back_samples + this.rules.left_pad_tokens * this.samplesPerToken
    this.samples = new Float32Array(silence) // from look_back before the next token to encode
  }

  /**
   * Take the next samples and give the tokens they decide.
   * @param {Float32Array} samples at the model's rate, mono, full scale 1; any number, zero included
   * @returns {AsyncGenerator<Token>}
   * @throws {AudioError} not such samples, or some that are not finite; the stream stays as it was
   */
  async *feed(samples) {
    if (this.finished) throw new AudioError('the stream is finished; open another')
    checkSamples(samples)
    this.numSamples += samples.length
    this.append(samples)
    yield* this.advance(Infinity)
  }

  /**
   * Take the end of the audio: append silence for what is still delayed and give the last tokens. The last position used
   * is the one before the last: its token stands for the end of the padded audio.
   * @returns {AsyncGenerator<Token>}
   */
  async *finish() {
    if (this.finished) return
    const per = this.samplesPerToken
    const wholeTokens = Math.ceil(this.numSamples / per)
    const padTokens = this.numDelayTokens + this.rules.right_pad_tokens
    const padding = wholeTokens * per - this.numSamples + padTokens * per + this.rules.look_ahead_samples
    this.append(new Float32Array(padding))
    yield* this.advance(this.rules.left_pad_tokens + wholeTokens + padTokens - 1)
    this.finished = true
  }

  /** Let another stream have the buffers; after it nothing more can be fed. */
  release() {
    this.finished = true
    this.encoderCache.release()
    this.decoderCache.release()
  }

  /** @param {Float32Array} samples */
  append(samples) {
    const joined = new Float32Array(this.samples.length + samples.length)
    joined.set(this.samples)
    joined.set(samples, this.samples.length)
    this.samples = joined
  }

  /**
   * Encode and decode what the samples allow, up to `last` positions in all.
   * @param {number} last
   * @returns {AsyncGenerator<Token>}
   */
  async *advance(last) {
    const per = this.samplesPerToken
    const margin = this.rules.look_back_samples + this.rules.look_ahead_samples
    const { encoder } = this.transcriber
    while (!this.finished) {
      const tokens = Math.min(
        Math.floor((this.samples.length - margin) / per),
        last - this.decoderCache.position,
        this.rules.max_chunk_tokens,
        encoder.maxTokens(this.encoderCache),
      )
      if (tokens <= 0) return
      const began = performance.now()
      const audioEmbeds = await encoder.encode(this.encoderCache, this.samples.subarray(0, tokens * per + margin))
      this.timings.encodeSeconds += (performance.now() - began) / 1000
      this.samples = this.samples.subarray(tokens * per) // hours that come at once are not copied for every call
      yield* this.decode(audioEmbeds)
    }
  }

  /**
   * One token a position; the prompt's positions together.
   * @param {import('./device.js').Tensor} audioEmbeds [1, tokens, hidden_size]
   * @returns {AsyncGenerator<Token>}
   */
  async *decode(audioEmbeds) {
    const { decoder } = this.transcriber
    const cache = this.decoderCache
    const blank = this.ids.streaming_pad
    const total = audioEmbeds.dims[1]
    for (let at = 0; at < total; ) {
      const inPrompt = this.promptLength - cache.position
      const rows = inPrompt > 0 ? Math.min(total - at, inPrompt, cache.slotsLeft) : 1
      const began = performance.now()
      const tokenIds = [this.nextId, ...new Array(rows - 1).fill(blank)]
      const embeds = decoder.session.device.slice(audioEmbeds, at, rows)
      const sampled = await decoder.step(cache, tokenIds, embeds, this.numDelayTokens, this.blankPenalty())
      this.timings.decodeSeconds += (performance.now() - began) / 1000
      this.timings.steps += rows
      at += rows
      if (cache.position < this.promptLength) {
        this.nextId = blank
        continue
      }
      yield this.acceptToken(sampled)
      if (this.finished) return
    }
  }

  /**
   * What the blank's logit loses: it grows where nothing but blanks has been written. The model can fall into a rut in
   * which every blank makes the next more likely, while people speak. True silence keeps its margin above the largest
   * penalty. Source: vLLM issue 47614 and pull request 47615.
   */
  blankPenalty() {
    const beyond = this.blanks - BLANKS_UNPENALISED
    return this.guard && beyond > 0 ? Math.min(MAX_BLANK_PENALTY, BLANK_PENALTY_STEP * beyond) : 0
  }

  /**
   * @param {import('./decoder.js').SampledToken} sampled
   * @returns {Token}
   */
  acceptToken({ tokenId, logprob, blankMargin }) {
    this.nextId = tokenId
    if (tokenId === this.ids.streaming_pad) {
      this.blanks += 1
    } else {
      if (blankMargin > 0) {
        const { blanks } = this
        this.overrides.push({ index: this.numGenerated, blanks, blankMargin, penalty: this.blankPenalty() })
      }
      this.blanks = 0
    }
    this.finished = this.stopAtEos && tokenId === this.ids.eos
    const index = this.numGenerated++
    const end = ((index + 1) * this.samplesPerToken) / this.sampleRate
    return { index, tokenId, text: this.text.push(tokenId), end, logprob, blankMargin }
  }
}

/**
 * @param {Float32Array} samples
 * @throws {AudioError} not an array of floats, or one with a value that is not finite
 */
export function checkSamples(samples) {
  if (!(samples instanceof Float32Array)) {
    throw new AudioError('samples: expected a Float32Array with full scale 1; average the channels and divide integers')
  }
  const bad = samples.findIndex((sample) => !Number.isFinite(sample))
  if (bad >= 0) throw new AudioError(`samples: sample ${bad} is ${samples[bad]}: the recording is damaged`)
}
