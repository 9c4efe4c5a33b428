/** An artifact loaded once, streams opened with it (transcribe.py). */

import { Decoder } from './decoder.js'
import { Wasm } from './device.js'
import { Encoder } from './encoder.js'
import { TOKENIZER } from './manifest.js'
import { Session } from './session.js'
import { Stream } from './stream.js'
import { Tokenizer } from './tokenizer.js'

export const DEFAULT_CONTEXT = 8192 // decoder positions kept, 10.9 minutes

/** A loaded model. */
export class Transcriber {
  /**
   * @param {import('./manifest.js').Manifest} manifest
   * @param {Encoder} encoder
   * @param {Decoder} decoder
   * @param {Tokenizer} tokenizer
   * @param {boolean} blankGuard
   */
  constructor(manifest, encoder, decoder, tokenizer, blankGuard) {
    this.manifest = manifest
    this.encoder = encoder
    this.decoder = decoder
    this.tokenizer = tokenizer
    this.blankGuard = blankGuard
  }

  /**
   * Load one precision of an artifact.
   * @param {object} options
   * @param {import('./manifest.js').Manifest} options.manifest
   * @param {import('./session.js').ReadFile} options.readFile
   * @param {string} options.precision
   * @param {import('./device.js').Device} options.device
   * @param {number} [options.context] decoder positions of 80 ms that attention sees
   * @param {boolean} [options.blankGuard] after 16 s without a word, make blanks less likely step by step
   * @param {(part: string) => void} [options.onPart] told before each part is loaded
   */
  static async open({ manifest, readFile, precision, device, context = DEFAULT_CONTEXT, blankGuard = true, onPart }) {
    const graphs = manifest.precisions[precision]
    const decoderCache = manifest.decoderCache(context)
    const tokenizer = new Tokenizer(await (await readFile(TOKENIZER)).text(), manifest.tokens)
    const mel = await Session.open(new Wasm(device.ort), manifest.mel, readFile) // small, and exact there
    onPart?.('encoder')
    const encoder = await Session.open(device, graphs.encoder, readFile)
    onPart?.('decoder')
    const decoder = await Session.open(device, graphs.decoder, readFile)
    return new Transcriber(
      manifest,
      new Encoder(manifest, mel, encoder),
      new Decoder(decoder, decoderCache),
      tokenizer,
      blankGuard,
    )
  }

  /**
   * A new stream.
   * @param {object} [options]
   * @param {number} [options.delayMs] how long the model listens before it writes
   * @param {boolean} [options.stopAtEos]
   */
  stream({ delayMs, stopAtEos = false } = {}) {
    return new Stream(this, this.manifest.delayTokens(delayMs), stopAtEos)
  }

  /** Free the sessions. */
  async close() {
    for (const session of [this.encoder.mel, this.encoder.session, this.decoder.session]) await session.release()
  }
}
