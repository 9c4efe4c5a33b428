/** The encoder: audio samples in, audio embeddings out, a chunk of tokens in each call (encoder.py). */

import { tensorOf } from './device.js'

export const OUTPUT = 'audio_embeds'

/** The mel graph, the encoder graph and the size of its cache. */
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

  /** Return buffers for one stream. */
  newCache() {
    return this.session.newCache(this.spec)
  }

  /**
   * Return how many tokens the next call may encode.
   * @param {import('./cache.js').KVCache} cache
   */
  maxTokens(cache) {
    return Math.floor(cache.slotsLeft / this.spec.rows_per_token)
  }

  /**
   * Return the audio embeddings [1, tokens, hidden_size] of the next tokens, on the device.
   * @param {import('./cache.js').KVCache} cache the stream's
   * @param {Float32Array} samples from look_back_samples before the first token to look_ahead_samples after the last
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
