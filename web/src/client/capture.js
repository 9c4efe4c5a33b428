/** The sound of a media stream as mono samples at the model's rate. */

import { AudioError, kindOf } from '../shared/errors.js'
import { Resampler } from '../shared/resample.js'

const LOOK_EVERY = 250 // milliseconds: stopping a track fires no event on the page that stops it

/** The sound of a microphone, a tab or an element, while it is captured. */
export class Capture {
  /**
   * @param {AudioContext} context
   * @param {ReturnType<typeof setInterval>} timer
   */
  constructor(context, timer) {
    this.context = context
    this.timer = timer
  }

  /**
   * Capture the audio of a media stream.
   * @param {MediaStream} media
   * @param {object} options
   * @param {number} options.sampleRate the model's, in Hz
   * @param {(samples: Float32Array, level: number) => void} options.onSamples called about every 20 ms with mono samples
   *   and their peak, 0 to 1
   * @param {() => void} options.onEnded called when all its tracks have ended
   * @param {(warning: string) => void} [options.onWarning] called with a sentence where the browser waits for a click
   * @returns {Promise<Capture>}
   * @throws {AudioError} it is no media stream, or has no sound
   */
  static async open(media, { sampleRate, onSamples, onEnded, onWarning }) {
    if (!(media instanceof MediaStream)) {
      throw new AudioError(
        `listen: expected a MediaStream, got ${kindOf(media)}; take one of navigator.mediaDevices.getUserMedia({ audio: true }), ` +
          'of getDisplayMedia, or of captureStream() of an audio or video element',
      )
    }
    const tracks = media.getAudioTracks()
    if (tracks.length === 0) {
      throw new AudioError('listen: the media stream has no sound; ask for audio, and share a tab or a screen with its sound')
    }

    // Capture in a worklet, resample and report here
    const context = new AudioContext()
    const worklet = new URL('./capture-worklet.js?no-inline', import.meta.url) // no data: address, which policies refuse
    await context.audioWorklet.addModule(worklet)
    const capture = new AudioWorkletNode(context, 'capture', { numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit' })
    const resampler = new Resampler(context.sampleRate, sampleRate)
    capture.port.onmessage = ({ data: samples }) => {
      let level = 0
      for (const sample of samples) level = Math.max(level, Math.abs(sample))
      onSamples(resampler.push(samples), level)
    }
    context.createMediaStreamSource(media).connect(capture)

    // Start it, which browsers do after a click only, and see it end
    void context.resume()
    let looks = 0
    const timer = setInterval(() => {
      if (tracks.every(({ readyState }) => readyState === 'ended')) onEnded()
      if (++looks === 4 && context.state === 'suspended') {
        onWarning?.('the browser gives this page no sound before it is clicked or a key is pressed; call listen then')
      }
    }, LOOK_EVERY)
    return new Capture(context, timer)
  }

  /** Capture no more; the media stream goes on. */
  async close() {
    clearInterval(this.timer)
    await this.context.close()
  }
}
