/** Reading of recordings as mono samples at the model's rate, block by block. */

import { AudioError, kindOf } from './errors.js'
import { Resampler } from './resample.js'

const BLOCK_SECONDS = 1.28 // 16 tokens, the largest encoder call
const LONGEST_DECODED = 200e6 // bytes of a compressed file: the browser decodes all of it, to about ten times the size

/**
 * @typedef {object} AudioSource
 * @property {number} duration seconds, as the file's header says
 * @property {AsyncGenerator<Float32Array>} blocks mono samples, full scale 1
 */

/**
 * @typedef {Blob | string | URL | AudioBuffer | Float32Array} Recording a File or Blob with audio or video, the address of
 *   one, a decoded AudioBuffer, or mono samples at the model's rate with full scale 1
 */

/**
 * Open a recording. A WAV of any length is read slice by slice; the browser decodes all other files whole.
 * @param {Recording} recording
 * @param {number} sampleRate the model's, in Hz
 * @returns {Promise<AudioSource>}
 * @throws {AudioError} it is no recording, cannot be fetched or decoded, or is too large to decode whole
 */
export async function openAudio(recording, sampleRate) {
  if (typeof recording === 'string' || recording instanceof URL) return openAudio(await fetched(recording), sampleRate)
  if (recording instanceof Float32Array) return ofChannels([recording], sampleRate, sampleRate)
  if (globalThis.AudioBuffer && recording instanceof AudioBuffer) {
    const channels = Array.from({ length: recording.numberOfChannels }, (_, i) => recording.getChannelData(i))
    return ofChannels(channels, recording.sampleRate, sampleRate)
  }
  if (!(recording instanceof Blob)) {
    throw new AudioError(
      `expected a File or Blob, an address, an AudioBuffer or a Float32Array at ${sampleRate} Hz, got ${kindOf(recording)}; ` +
        'take the file of an input element: input.files[0]',
    )
  }
  const name = 'name' in recording ? String(recording.name) : 'the recording'
  const wav = await readWavHeader(recording, name)
  if (wav) return { duration: wav.frames / wav.rate, blocks: wavBlocks(recording, wav, sampleRate) }
  if (recording.size > LONGEST_DECODED) {
    throw new AudioError(
      `${name}: ${Math.ceil(recording.size / 1e6)} MB, but the page decodes files other than WAV only up to ` +
        `${LONGEST_DECODED / 1e6} MB, because the browser decodes them whole; convert it to WAV, which may have any length`,
    )
  }
  let decoded
  try {
    const context = new OfflineAudioContext(1, 1, sampleRate) // decodes to its own rate
    decoded = await context.decodeAudioData(await recording.arrayBuffer())
  } catch {
    throw new AudioError(`${name}: the browser cannot decode it; convert it to WAV, MP3, FLAC, Ogg or M4A`)
  }
  return openAudio(decoded, sampleRate)
}

/**
 * Fetch the recording at an address.
 * @param {string | URL} address
 * @throws {AudioError} the server does not answer, or refuses
 */
async function fetched(address) {
  let response
  try {
    response = await fetch(address)
  } catch (error) {
    throw new AudioError(
      `${address}: cannot be reached (${error}); check the address, and let a host of another origin send Access-Control-Allow-Origin`,
    )
  }
  if (!response.ok) throw new AudioError(`${address}: the server answered ${response.status}; check the address`)
  return new File([await response.blob()], String(address))
}

/**
 * Return decoded channels as mono blocks.
 * @param {Float32Array[]} channels
 * @param {number} rate theirs, in Hz
 * @param {number} sampleRate the model's, in Hz
 * @returns {AudioSource}
 */
function ofChannels(channels, rate, sampleRate) {
  const [{ length }] = channels
  async function* blocks() {
    const resampler = new Resampler(rate, sampleRate)
    const size = Math.round(BLOCK_SECONDS * rate)
    for (let at = 0; at < length; at += size) {
      yield resampler.push(Float32Array.from({ length: Math.min(size, length - at) }, (_, i) => mean(channels, at + i)))
    }
    yield resampler.end()
  }
  return { duration: length / rate, blocks: blocks() }
}

/**
 * @typedef {{start: number, frames: number, rate: number, channels: number, bits: number, isFloat: boolean}} Wav format of a
 *   WAV's samples, and the byte at which they start
 */

/**
 * Read a WAV's header; undefined for another kind of file.
 * @param {Blob} file
 * @param {string} name of the file in messages
 * @returns {Promise<Wav | undefined>}
 * @throws {AudioError} a WAV without samples, or in a format other than PCM and float
 */
export async function readWavHeader(file, name) {
  const view = async (/** @type {number} */ at, /** @type {number} */ size) =>
    new DataView(await file.slice(at, at + size).arrayBuffer())
  const word = (/** @type {DataView} */ v, /** @type {number} */ at) =>
    String.fromCharCode(...new Uint8Array(v.buffer, at, 4))
  const head = await view(0, 12)
  if (head.byteLength < 12 || word(head, 0) !== 'RIFF' || word(head, 8) !== 'WAVE') return undefined

  // Walk the chunks: the format comes before the samples
  let format
  for (let at = 12; at + 8 <= file.size; ) {
    const chunk = await view(at, 48)
    const size = chunk.getUint32(4, true)
    if (word(chunk, 0) === 'fmt ' && chunk.byteLength >= 24) {
      const extensible = chunk.getUint16(8, true) === 0xfffe && chunk.byteLength >= 34
      const tag = chunk.getUint16(extensible ? 32 : 8, true)
      const bits = chunk.getUint16(22, true)
      format = { channels: chunk.getUint16(10, true), rate: chunk.getUint32(12, true), bits, isFloat: tag === 3 }
      const isKnown = (tag === 1 && [8, 16, 24, 32].includes(bits)) || (tag === 3 && [32, 64].includes(bits))
      if (!isKnown || !format.channels || format.rate < 1000 || format.rate > 768_000) {
        throw new AudioError(`${name}: expected a WAV with PCM or float samples, got format ${tag} of ${bits} bits; convert it`)
      }
    }
    if (word(chunk, 0) === 'data') {
      if (!format) break
      const frame = (format.channels * format.bits) / 8
      const bytes = Math.min(size, file.size - at - 8) // the header of a WAV written to a pipe announces more than there is
      return { ...format, start: at + 8, frames: Math.floor(bytes / frame) }
    }
    at += 8 + size + (size % 2)
  }
  throw new AudioError(`${name}: a WAV without samples; record or convert it again`)
}

/**
 * Yield a WAV's samples, averaged over channels and resampled.
 * @param {Blob} file
 * @param {Wav} wav
 * @param {number} sampleRate
 * @returns {AsyncGenerator<Float32Array>}
 */
async function* wavBlocks(file, { start, frames, rate, channels, bits, isFloat }, sampleRate) {
  const resampler = new Resampler(rate, sampleRate)
  const [bytes, size] = [bits / 8, Math.round(BLOCK_SECONDS * rate)]
  const frame = channels * bytes
  for (let at = 0; at < frames; at += size) {
    const count = Math.min(size, frames - at)
    const view = new DataView(await file.slice(start + at * frame, start + (at + count) * frame).arrayBuffer())
    const mono = new Float32Array(count)
    for (let i = 0; i < count; i++) {
      let sum = 0
      for (let c = 0; c < channels; c++) sum += sampleAt(view, i * frame + c * bytes, bits, isFloat)
      mono[i] = sum / channels
    }
    yield resampler.push(mono)
  }
  yield resampler.end()
}

/**
 * Return one little-endian sample, full scale 1.
 * @param {DataView} view
 * @param {number} at
 * @param {number} bits
 * @param {boolean} isFloat
 */
function sampleAt(view, at, bits, isFloat) {
  if (isFloat) return bits === 32 ? view.getFloat32(at, true) : view.getFloat64(at, true)
  if (bits === 8) return (view.getUint8(at) - 128) / 128
  if (bits === 16) return view.getInt16(at, true) / 32768
  if (bits === 24) return (view.getUint16(at, true) + view.getInt8(at + 2) * 65536) / 8388608
  return view.getInt32(at, true) / 2147483648
}

/**
 * Return the average of all channels at a sample.
 * @param {Float32Array[]} channels
 * @param {number} at
 */
function mean(channels, at) {
  let sum = 0
  for (const channel of channels) sum += channel[at]
  return sum / channels.length
}
