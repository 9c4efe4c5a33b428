/** A microphone to mono samples at the model's rate. */

import { AudioError } from '../shared/errors.js'
import { Resampler } from '../shared/resample.js'

const REFUSALS = /** @type {Record<string, string>} */ ({
  NotAllowedError: 'the browser was not allowed to use the microphone; allow it beside the address, then start again',
  NotFoundError: 'there is no microphone; connect one, then start again',
  NotReadableError: 'the microphone is used by another program; close that, then start again',
  OverconstrainedError: 'the chosen microphone is gone; choose another one',
})

/** A microphone that is open. */
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
   * @param {string} [options.deviceId] without one the browser's choice
   * @param {number} options.sampleRate the model's
   * @param {(samples: Float32Array, level: number) => void} options.onSamples every 20 ms or so; level is the peak
   * @param {() => void} options.onEnded the device was taken away
   * @returns {Promise<Microphone>}
   * @throws {AudioError} refused, missing or taken
   */
  static async open({ deviceId, sampleRate, onSamples, onEnded }) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new AudioError('this page may not use the microphone: open it over https or on localhost')
    }
    let media
    try {
      media = await navigator.mediaDevices.getUserMedia({
        audio: { deviceId: deviceId ? { exact: deviceId } : undefined, channelCount: 1 },
      })
    } catch (error) {
      const { name, message } = /** @type {DOMException} */ (error)
      throw new AudioError(REFUSALS[name] ?? `the microphone cannot be opened (${message}); choose another one`)
    }
    const context = new AudioContext()
    await context.audioWorklet.addModule(new URL('./capture-worklet.js', import.meta.url))
    const capture = new AudioWorkletNode(context, 'capture', { numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit' })
    const resampler = new Resampler(context.sampleRate, sampleRate)
    capture.port.onmessage = ({ data: samples }) => {
      let level = 0
      for (const sample of samples) level = Math.max(level, Math.abs(sample))
      onSamples(resampler.push(samples), level)
    }
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

  /** The microphones there are; their names are known once one was allowed. */
  static async list() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? []
    return devices.filter(({ kind }) => kind === 'audioinput')
  }
}
