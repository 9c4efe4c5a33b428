/** The decoder: audio embeddings and previous tokens in, next tokens out (decoder.py). */

import { tensorOf } from './device.js'

/** @typedef {{tokenId: number, logprob: number, blankMargin: number}} SampledToken the likeliest token at one position */

export const OUTPUT = 'step' // [1, seq_len, 3]: id, logprob and blank margin at each position

/** The decoder graph and the size of its cache. */
export class Decoder {
  /**
   * @param {import('./session.js').Session} session
   * @param {import('./manifest.js').CacheSpec} spec
   */
  constructor(session, spec) {
    this.session = session
    this.spec = spec
  }

  /** Return buffers for one stream. */
  newCache() {
    return this.session.newCache(this.spec)
  }

  /**
   * Run the next positions and return the token sampled at the last one.
   * @param {import('./cache.js').KVCache} cache the stream's
   * @param {number[]} tokenIds input tokens at these positions
   * @param {import('./device.js').Tensor} audioEmbeds [1, tokenIds.length, hidden_size]
   * @param {number} numDelayTokens the stream's delay
   * @param {number} blankPenalty subtracted from the blank token's logit at the last position before sampling; logprob and
   *   margin are those before
   * @returns {Promise<SampledToken>}
   */
  async step(cache, tokenIds, audioEmbeds, numDelayTokens, blankPenalty) {
    const { ort } = this.session.device
    const rows = tokenIds.length
    const feeds = {
      input_ids: tensorOf(ort, 'int64', tokenIds, [1, rows]),
      audio_embeds: audioEmbeds,
      num_delay_tokens: tensorOf(ort, 'int64', [numDelayTokens], [1]),
      blank_penalty: tensorOf(ort, 'float32', [...new Array(rows - 1).fill(0), blankPenalty], [1, rows]),
    }
    const output = await this.session.step(cache, rows, feeds, { name: OUTPUT })
    const [tokenId, logprob, blankMargin] = /** @type {Float32Array} */ (output.data).subarray(3 * (rows - 1))
    return { tokenId, logprob, blankMargin }
  }
}
