/** Which device and which precision run an artifact here; what is short is said before anything is downloaded. */

import { canCapture } from './device.js'
import { DeviceError } from '../shared/errors.js'
import { BYTES } from './manifest.js'
import { megabytes } from './store.js'

const PRECISIONS = ['q4f16', 'q4', 'q8', 'fp16', 'fp32'] // as runtime/locate.py prefers them
const MAX_WASM_BYTES = 256e6 // of weights that WebAssembly can read once in every 80 ms

/**
 * @typedef {import('./manifest.js').Manifest} Manifest
 * @typedef {{deviceName: 'webgpu' | 'wasm', precision: string, adapter: string | null, notes: string[]}} Backend notes say
 *   what runs otherwise than one would wish
 */

/**
 * @param {Manifest} manifest
 * @param {object} [requested]
 * @param {'webgpu' | 'wasm'} [requested.device] without one WebGPU, or WebAssembly for a small artifact
 * @param {string} [requested.precision] without one the first that the device computes in
 * @returns {Promise<Backend>}
 * @throws {DeviceError}
 */
export async function selectBackend(manifest, requested = {}) {
  if (requested.device !== 'wasm') {
    try {
      return await selectWebGpu(manifest, requested.precision)
    } catch (error) {
      if (requested.device === 'webgpu' || !(error instanceof DeviceError)) throw error
      const backend = selectWasm(manifest, requested.precision, error.message)
      return { ...backend, notes: [`running on the CPU in WebAssembly: ${error.message}`] }
    }
  }
  return selectWasm(manifest, requested.precision, 'WebAssembly was asked for')
}

/**
 * @param {Manifest} manifest
 * @param {string} [requested]
 * @returns {Promise<Backend>}
 */
async function selectWebGpu(manifest, requested) {
  if (!navigator.gpu) {
    const advice = globalThis.isSecureContext ? 'use a current Chrome, Edge, Firefox or Safari' : 'open it over https'
    throw new DeviceError(`this browser offers no WebGPU to this page; ${advice}`)
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) {
    throw new DeviceError('the browser has WebGPU, but no graphics adapter for it; update the graphics driver')
  }
  const hasFloat16 = adapter.features.has('shader-f16')
  const notes = []
  const precision = selectPrecision(manifest, requested, (dtype) => hasFloat16 || dtype !== 'float16', 'shader-f16 is missing')
  if (!hasFloat16) notes.push(`this graphics adapter computes in float32 only (no shader-f16): ${precision} runs`)
  if (!canCapture(adapter)) {
    notes.push('this graphics adapter has no subgroups: every call is started anew, which takes twice as long')
  }
  if (adapter.info.isFallbackAdapter) notes.push('this browser emulates the graphics adapter on the CPU, which is slow')
  for (const [limit, bytes] of Object.entries(needs(manifest, precision))) {
    const found = adapter.limits[/** @type {'maxBufferSize'} */ (limit)]
    if (found < bytes) {
      throw new DeviceError(
        `the graphics adapter's ${limit} is ${megabytes(found)}, ${precision} of this model needs ${megabytes(bytes)}; ` +
          'use another computer, or an artifact with a smaller table: voxtral-onnx export --recipe small',
      )
    }
  }
  const { vendor, architecture, description } = adapter.info
  return { deviceName: 'webgpu', precision, adapter: [vendor, architecture, description].filter(Boolean).join(' '), notes }
}

/**
 * Bytes of the largest buffers: the table that embeds and predicts, alone in the decoder's last data file, and the largest
 * one of a cache.
 * @param {Manifest} manifest
 * @param {string} precision
 */
function needs(manifest, precision) {
  const { activation_dtype: dtype, decoder } = manifest.precisions[precision]
  const caches = Object.values(manifest.caches)
  const cache = Math.max(...caches.map((c) => c.num_key_value_heads * c.capacity * c.head_dim * BYTES[/** @type {'float16'} */ (dtype)]))
  const table = manifest.files[decoder.data[decoder.data.length - 1]].size
  return { maxBufferSize: Math.max(cache, table), maxStorageBufferBindingSize: cache }
}

/**
 * @param {Manifest} manifest
 * @param {string | undefined} requested
 * @param {string} reason
 * @returns {Backend}
 */
function selectWasm(manifest, requested, reason) {
  const precision = selectPrecision(manifest, requested, (dtype) => dtype === 'float32', 'WebAssembly computes in float32')
  const bytes = [...manifest.filesOf(precision).values()].reduce((sum, { size }) => sum + size, 0)
  if (bytes > MAX_WASM_BYTES) {
    throw new DeviceError(`a model of ${megabytes(bytes)} needs WebGPU, on the CPU it cannot keep up with speech; ${reason}`)
  }
  return { deviceName: 'wasm', precision, adapter: null, notes: [] }
}

/**
 * @param {Manifest} manifest
 * @param {string | undefined} requested
 * @param {(dtype: string) => boolean} fits
 * @param {string} reason
 */
function selectPrecision(manifest, requested, fits, reason) {
  const known = PRECISIONS.filter((name) => name in manifest.precisions)
  const precision = known.find((name) => name === (requested ?? name) && fits(manifest.precisions[name].activation_dtype))
  if (precision) return precision
  throw new DeviceError(
    `the page has ${known.join(', ')}, and ${requested ? `${requested} does not run` : 'none of them runs'} here: ` +
      `${reason}; ` +
      'have q4 served too: voxtral-onnx serve ARTIFACT --precision q4f16,q4, exported with --precision q4 where it is missing',
  )
}
