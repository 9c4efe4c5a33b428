/** One stream: audio samples in, tokens out as soon as they are decided (stream.py). */

import { AudioError } from '../shared/errors.js'
import { TextPieces } from './tokenizer.js'

const BLANKS_UNPENALISED = 200 // in a row, 16 s; the longest pauses seen in speech are 165 (vLLM pull request 47615)
const BLANK_PENALTY_STEP = 0.5 // logits for each further blank
const MAX_BLANK_PENALTY = 7.0 // logits

/**
 * @typedef {import('../shared/messages.js').Token} Token
 *
 * @typedef {object} Override a decision of the blank guard: another token instead of one more blank
 * @property {number} index of the token
 * @property {number} blanks number of blanks in a row before it
 * @property {number} blankMargin margin by which the blank would have won
 * @property {number} penalty logits that were subtracted from the blank's
 */

/**
 * A stream of any length at constant memory. The sizes of the chunks that are fed do not change its tokens: positions,
 * shifts of the cache and the end depend on the number of samples alone.
 */
export class Stream {
  /**
   * Use `Transcriber.stream` to make one.
   * @param {import('./transcriber.js').Transcriber} transcriber
   * @param {number} numDelayTokens
   * @param {boolean} stopAtEos end at the model's end-of-text token: right for files, but live speakers may go on
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
    this.numSamples = 0 // fed so far
    this.numGenerated = 0
    this.nextId = this.ids.bos
    this.blanks = 0 // generated in a row
    /** @type {Override[]} decisions of the blank guard */
    this.overrides = []
    this.finished = false
    this.text = new TextPieces(transcriber.tokenizer)
    this.timings = { encodeSeconds: 0, decodeSeconds: 0, steps: 0 }
    const silence = this.rules.look_back_samples + this.rules.left_pad_tokens * this.samplesPerToken
    this.samples = new Float32Array(silence) // from look_back_samples before the next token to encode
  }

  /**
   * Take the next samples and yield the tokens that they decide.
   * @param {Float32Array} samples mono, at the model's rate, full scale 1; any number, zero included
   * @returns {AsyncGenerator<Token>}
   * @throws {AudioError} the samples are not finite floats, which leaves the stream as it was, or the stream is finished
   */
  async *feed(samples) {
    if (this.finished) throw new AudioError('the stream is finished; open another')
    checkSamples(samples)
    this.numSamples += samples.length
    this.append(samples)
    yield* this.advance(Infinity)
  }

  /**
   * End the audio: append silence for what is still delayed, and yield the last tokens. The position before the last of the
   * padded audio is the last one decoded, because its token stands for the end of that audio.
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

  /** Give the buffers back for another stream; nothing more can be fed. */
  release() {
    this.finished = true
    this.encoderCache.release()
    this.decoderCache.release()
  }

  /**
   * Append samples to those that wait to be encoded.
   * @param {Float32Array} samples
   */
  append(samples) {
    const joined = new Float32Array(this.samples.length + samples.length)
    joined.set(this.samples)
    joined.set(samples, this.samples.length)
    this.samples = joined
  }

  /**
   * Encode and decode as many tokens as there are samples for, up to position `last` of the stream.
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
      this.samples = this.samples.subarray(tokens * per) // a view: hours of audio are not copied at every call
      yield* this.decode(audioEmbeds)
    }
  }

  /**
   * Decode positions and yield their tokens: the prompt's positions in one call, others one by one.
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
   * Return the penalty on the blank token's logit, which grows with a long run of blanks. The model can fall into a loop in
   * which every blank makes the next one more likely although people speak. In true silence the blank's margin stays above
   * the largest penalty. Source: vLLM issue 47614 and pull request 47615.
   */
  blankPenalty() {
    const beyond = this.blanks - BLANKS_UNPENALISED
    return this.guard && beyond > 0 ? Math.min(MAX_BLANK_PENALTY, BLANK_PENALTY_STEP * beyond) : 0
  }

  /**
   * Make a sampled token the next input, and count blanks and decisions of the blank guard.
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
 * Check that samples can be fed.
 * @param {Float32Array} samples
 * @throws {AudioError} it is no Float32Array, or a value is not finite
 */
export function checkSamples(samples) {
  if (!(samples instanceof Float32Array)) {
    throw new AudioError('samples: expected a Float32Array with full scale 1; average the channels and divide integers')
  }
  const bad = samples.findIndex((sample) => !Number.isFinite(sample))
  if (bad >= 0) throw new AudioError(`samples: sample ${bad} is ${samples[bad]}: the recording is damaged`)
}
