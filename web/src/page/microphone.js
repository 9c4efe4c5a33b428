/** The microphone as mono samples at the model's rate. */

import { Capture } from '../client/capture.js'
import { AudioError } from '../shared/errors.js'

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
   * @param {Capture} capture
   */
  constructor(media, capture) {
    this.media = media
    this.capture = capture
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

    let media
    try {
      media = await navigator.mediaDevices.getUserMedia({
        audio: { deviceId: deviceId ? { exact: deviceId } : undefined, channelCount: 1 },
      })
    } catch (error) {
      const { name, message } = /** @type {DOMException} */ (error)
      throw new AudioError(REFUSALS[name] ?? `the microphone cannot be opened (${message}); choose another one`)
    }

    return new Microphone(media, await Capture.open(media, { sampleRate, onSamples, onEnded }))
  }

  /** Release the device. */
  async close() {
    for (const track of this.media.getTracks()) track.stop()
    await this.capture.close()
  }

  /** List the microphones; browsers tell their names once the user has allowed one. */
  static async list() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? []
    return devices.filter(({ kind }) => kind === 'audioinput')
  }
}
