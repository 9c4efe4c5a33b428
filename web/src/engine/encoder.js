/** Samples to audio embeddings, a chunk of tokens a call (encoder.py). */

import { tensorOf } from './device.js'

export const OUTPUT = 'audio_embeds'

/** The mel graph and the encoder graph. */
export class Encoder {
  /**
   * @param {import('./manifest.js').Manifest} manifest
   * @param {import('./session.js').Session} mel
   * @param {import('./session.js').Session} session
   * @param {import('./manifest.js').CacheSpec} spec
   */
  constructor(manifest, mel, session, spec) {
    this.mel = mel
    this.session = session
    this.spec = spec
    const output = session.graph.outputs.find(({ name }) => name === OUTPUT)
    this.width = Number(output?.shape[2])
    this.dtype = /** @type {import('./device.js').DataType} */ (output?.dtype)
    this.framesPerToken = manifest.config.audio.frames_per_token
  }

  /** Buffers for one stream. */
  newCache() {
    return this.session.newCache(this.spec)
  }

  /**
   * Tokens that the next call may encode.
   * @param {import('./cache.js').KVCache} cache
   */
  maxTokens(cache) {
    return Math.floor(cache.slotsLeft / this.spec.rows_per_token)
  }

  /**
   * Audio embeddings [1, tokens, hidden_size] of the next tokens, on the device.
   * @param {import('./cache.js').KVCache} cache
   * @param {Float32Array} samples from look_back before the first token to look_ahead after the last
   */
  async encode(cache, samples) {
    const { ort } = this.session.device
    const features = await this.mel.run({ audio: tensorOf(ort, 'float32', samples, [1, samples.length]) })
    const tokens = features.dims[2] / this.framesPerToken
    return this.session.step(
      cache,
      tokens * this.spec.rows_per_token,
      { input_features: features },
      { name: OUTPUT, dims: [1, tokens, this.width], dtype: this.dtype },
    )
  }
}
