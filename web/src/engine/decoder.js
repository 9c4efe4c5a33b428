/** Audio embeddings and tokens to next tokens (decoder.py). */

import { tensorOf } from './device.js'

/** @typedef {{tokenId: number, logprob: number, blankMargin: number}} SampledToken the likeliest token at one position */

export const OUTPUT = 'step' // id, logprob and blank margin of each position

/** The decoder graph. */
export class Decoder {
  /**
   * @param {import('./session.js').Session} session
   * @param {import('./manifest.js').CacheSpec} spec
   */
  constructor(session, spec) {
    this.session = session
    this.spec = spec
  }

  /** Buffers for one stream. */
  newCache() {
    return this.session.newCache(this.spec)
  }

  /**
   * Run the next positions; the token sampled at the last one.
   * @param {import('./cache.js').KVCache} cache of the stream
   * @param {number[]} tokenIds that stand at these positions
   * @param {import('./device.js').Tensor} audioEmbeds [1, tokenIds.length, hidden_size]
   * @param {number} numDelayTokens of the stream
   * @param {number} blankPenalty taken off the blank's logit at the last position before sampling; logprob and margin
   *   are those before
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
