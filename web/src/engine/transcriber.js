/** The loaded model, with which streams are opened (transcriber.py). */

import { Decoder, OUTPUT as DECODER_OUTPUT } from './decoder.js'
import { Wasm } from './device.js'
import { Encoder, OUTPUT as ENCODER_OUTPUT } from './encoder.js'
import { CacheSpec, MOST_BYTES, TOKENIZER } from './manifest.js'
import { readText } from './download.js'
import { Session } from './session.js'
import { Stream } from './stream.js'
import { Tokenizer } from './tokenizer.js'

const DEFAULT_CONTEXT = 8192 // decoder positions that attention sees: 10.9 minutes

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
    /** @type {string[]} sentences for the user about limitations */
    this.notes = []
  }

  /**
   * Load one precision of an artifact; where the device cannot capture its calls, load it again without.
   * @param {object} options
   * @param {import('./manifest.js').Manifest} options.manifest
   * @param {import('./session.js').ReadFile} options.readFile
   * @param {string} options.precision
   * @param {import('./device.js').Device} options.device
   * @param {number} [options.context] decoder positions of 80 ms that attention sees
   * @param {boolean} [options.blankGuard] after 16 s without a word, make blank tokens less likely step by step
   * @param {(part: string) => void} [options.onPart] called before each part is loaded, with its name
   */
  static async open(options) {
    const { device } = options
    if (!device.captures) return Transcriber.load(options)
    /** @type {Transcriber | undefined} */
    let transcriber
    try {
      transcriber = await Transcriber.load(options)
      await transcriber.warmUp()
      return transcriber
    } catch (error) {
      await transcriber?.close()
      device.captures = false
      const slower = await Transcriber.load(options)
      slower.notes.push(`calls on this graphics adapter cannot be captured and replayed, and take twice as long (${error})`)
      return slower
    }
  }

  /**
   * Load the graphs and the tokenizer.
   * @param {object} options as in `open`
   * @param {import('./manifest.js').Manifest} options.manifest
   * @param {import('./session.js').ReadFile} options.readFile
   * @param {string} options.precision
   * @param {import('./device.js').Device} options.device
   * @param {number} [options.context]
   * @param {boolean} [options.blankGuard]
   * @param {(part: string) => void} [options.onPart]
   */
  static async load({ manifest, readFile, precision, device, context = DEFAULT_CONTEXT, blankGuard = true, onPart }) {
    const graphs = manifest.precisions[precision]
    const decoderCache = manifest.decoderCache(context)
    const encoderCache = new CacheSpec(manifest.caches.encoder)
    const tekken = await readText((await readFile(TOKENIZER)).stream(), MOST_BYTES.tokenizer, TOKENIZER)
    const tokenizer = new Tokenizer(tekken, manifest.tokens)

    // Where one graph fails, free those before it
    /** @type {Session[]} */
    const opened = []
    try {
      opened.push(await Session.open(new Wasm(device.ort), manifest.mel, readFile)) // on the CPU: it is small, and exact in float32
      onPart?.('encoder')
      opened.push(await Session.openWithCache(device, graphs.encoder, readFile, encoderCache, ENCODER_OUTPUT))
      onPart?.('decoder')
      opened.push(await Session.openWithCache(device, graphs.decoder, readFile, decoderCache, DECODER_OUTPUT))
    } catch (error) {
      for (const session of opened) await session.release()
      throw error
    }
    const [mel, encoder, decoder] = opened
    return new Transcriber(
      manifest,
      new Encoder(manifest, mel, encoder, encoderCache),
      new Decoder(decoder, decoderCache),
      tokenizer,
      blankGuard,
    )
  }

  /**
   * Return a new stream.
   * @param {object} [options]
   * @param {number} [options.delayMs] how long the model listens before it writes; by default the model's own delay
   * @param {boolean} [options.stopAtEos] end at the model's end-of-text token
   */
  stream({ delayMs, stopAtEos = false } = {}) {
    return new Stream(this, this.manifest.delayTokens(delayMs), stopAtEos)
  }

  /** Run each graph twice: the first call compiles shaders and is captured, the second replays. */
  async warmUp() {
    const { streaming, samplesPerToken, tokens } = this.manifest
    const silence = new Float32Array(streaming.look_back_samples + samplesPerToken + streaming.look_ahead_samples)
    const stream = this.stream()
    try {
      for (let call = 0; call < 2; call++) {
        const embeds = await this.encoder.encode(stream.encoderCache, silence)
        await this.decoder.step(stream.decoderCache, [tokens.bos], embeds, stream.numDelayTokens, 0)
      }
    } finally {
      stream.release()
    }
  }

  /** Free the model's memory. */
  async close() {
    for (const session of [this.encoder.mel, this.encoder.session, this.decoder.session]) await session.release()
  }
}
