/** The microphone as mono samples at the model's rate. */

import { AudioError } from '../shared/errors.js'
import { Resampler } from '../shared/resample.js'

const REFUSALS = /** @type {Record<string, string>} */ ({
  NotAllowedError: 'this page may not use the microphone; allow it in the site settings beside the address, then start again',
  NotFoundError: 'no microphone was found; connect one, then start again',
  NotReadableError: 'another program uses the microphone; close that program, then start again',
  OverconstrainedError: 'the chosen microphone is not connected any more; choose another one',
})

/** An open microphone. */
export class Microphone {
  /**
   * @param {MediaStream} media
   * @param {AudioContext} context
   */
  constructor(media, context) {
    this.media = media
    this.context = context
  }

  /**
   * Open a microphone; the browser asks the user the first time.
   * @param {object} options
   * @param {string} [options.deviceId] the browser's default where there is none
   * @param {number} options.sampleRate the model's, in Hz
   * @param {(samples: Float32Array, level: number) => void} options.onSamples called about every 20 ms with mono samples
   *   and their peak, 0 to 1
   * @param {() => void} options.onEnded called when the device is disconnected
   * @returns {Promise<Microphone>}
   * @throws {AudioError} the microphone is refused, missing or in use
   */
  static async open({ deviceId, sampleRate, onSamples, onEnded }) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new AudioError('browsers give no microphone to pages that are not secure; open this page over https or on localhost')
    }

    // Ask for the device
    let media
    try {
      media = await navigator.mediaDevices.getUserMedia({
        audio: { deviceId: deviceId ? { exact: deviceId } : undefined, channelCount: 1 },
      })
    } catch (error) {
      const { name, message } = /** @type {DOMException} */ (error)
      throw new AudioError(REFUSALS[name] ?? `the microphone cannot be opened (${message}); choose another one`)
    }

    // Capture in a worklet, resample and report here
    const context = new AudioContext()
    await context.audioWorklet.addModule(new URL('../client/capture-worklet.js', import.meta.url))
    const capture = new AudioWorkletNode(context, 'capture', { numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit' })
    const resampler = new Resampler(context.sampleRate, sampleRate)
    capture.port.onmessage = ({ data: samples }) => {
      let level = 0
      for (const sample of samples) level = Math.max(level, Math.abs(sample))
      onSamples(resampler.push(samples), level)
    }

    // Connect and start
    context.createMediaStreamSource(media).connect(capture)
    media.getAudioTracks()[0].addEventListener('ended', onEnded)
    await context.resume()
    return new Microphone(media, context)
  }

  /** Release the device. */
  async close() {
    for (const track of this.media.getTracks()) track.stop()
    await this.context.close()
  }

  /** List the microphones; browsers tell their names once the user has allowed one. */
  static async list() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? []
    return devices.filter(({ kind }) => kind === 'audioinput')
  }
}
