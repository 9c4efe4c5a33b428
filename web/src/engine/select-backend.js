/** The choice of device and precision for an artifact. What this browser lacks is reported before any download. */

import { canCapture } from './device.js'
import { DeviceError, UsageError } from '../shared/errors.js'
import { BYTES } from './manifest.js'
import { megabytes } from './store.js'

const PRECISIONS = ['q4f16', 'q4', 'q8', 'fp16', 'fp32'] // in the order of preference of runtime/locate.py
const EMULATED = 'this browser emulates the graphics adapter on the CPU, which is slow'
const MAX_WASM_BYTES = 256e6 // of weights: WebAssembly can read no more in the 80 ms of each token

/**
 * @typedef {import('./manifest.js').Manifest} Manifest
 * @typedef {{deviceName: 'webgpu' | 'wasm', precision: string, adapter: string | null, notes: string[]}} Backend with
 *   sentences for the user about limitations
 */

/**
 * Select the device and the precision that run an artifact.
 * @param {Manifest} manifest
 * @param {object} [requested]
 * @param {'webgpu' | 'wasm'} [requested.device] by default WebGPU, or WebAssembly where that is missing or emulated and the model is small
 * @param {string} [requested.precision] by default the first that the device can compute in
 * @returns {Promise<Backend>}
 * @throws {DeviceError} the request, or the model, cannot run here
 * @throws {UsageError} no device or precision has the name that was requested
 */
export async function selectBackend(manifest, requested = {}) {
  const { device, precision: asked } = requested
  if (device !== undefined && !['webgpu', 'wasm'].includes(device)) {
    throw new UsageError(`device: expected 'webgpu' or 'wasm', got ${JSON.stringify(device)}; leave it out to take what this browser has`)
  }
  if (asked !== undefined && !(asked in manifest.precisions)) {
    const served = Object.keys(manifest.precisions).join(', ')
    throw new UsageError(`precision: this model is served in ${served}, got ${JSON.stringify(asked)}; take one of these, or leave it out`)
  }
  if (device === 'wasm') return selectWasm(manifest, asked, 'this page was asked for WebAssembly')
  if (device === 'webgpu') return selectWebGpu(manifest, asked)
  const webgpu = await orError(() => selectWebGpu(manifest, asked))
  if (!(webgpu instanceof DeviceError) && !webgpu.notes.includes(EMULATED)) return webgpu

  // WebAssembly, which is faster than an emulated graphics adapter too; the model may be too large for it
  const reason = webgpu instanceof DeviceError ? webgpu.message : EMULATED
  const wasm = await orError(async () => selectWasm(manifest, asked, reason))
  if (!(wasm instanceof DeviceError)) return { ...wasm, notes: [`running on the CPU in WebAssembly: ${reason}`] }
  if (webgpu instanceof DeviceError) throw wasm
  return webgpu
}

/**
 * Return what a selection returns, or its DeviceError.
 * @param {() => Promise<Backend>} select
 */
async function orError(select) {
  try {
    return await select()
  } catch (error) {
    if (error instanceof DeviceError) return error
    throw error
  }
}

/**
 * Select a precision for WebGPU, where the adapter has what that needs.
 * @param {Manifest} manifest
 * @param {string} [requested]
 * @returns {Promise<Backend>}
 * @throws {DeviceError} there is no adapter, or none of the precisions fits it
 */
async function selectWebGpu(manifest, requested) {
  if (!navigator.gpu) {
    const advice = globalThis.isSecureContext ? 'use a current Chrome, Edge, Firefox or Safari' : 'open it over https'
    throw new DeviceError(`this browser offers no WebGPU to this page; ${advice}`)
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) {
    throw new DeviceError('the browser found no graphics card that WebGPU can use; if the computer has one, update its driver')
  }

  // Features: float16, and subgroups for graph capture
  const hasFloat16 = adapter.features.has('shader-f16')
  const notes = []
  const lack = 'this graphics adapter has no float16 (shader-f16)'
  const precision = selectPrecision(manifest, requested, (dtype) => hasFloat16 || dtype !== 'float16', lack)
  if (!hasFloat16) notes.push(`${lack}, so the model runs in ${precision}, which computes in float32`)
  if (!canCapture(adapter)) {
    notes.push('this graphics adapter has no subgroups, so its calls cannot be captured and replayed, and take twice as long')
  }
  if (adapter.info.isFallbackAdapter) notes.push(EMULATED)

  // Limits on the sizes of buffers
  for (const [limit, bytes] of Object.entries(needs(manifest, precision))) {
    const found = adapter.limits[/** @type {'maxBufferSize'} */ (limit)]
    if (found < bytes) {
      throw new DeviceError(
        `the graphics adapter's ${limit} is ${megabytes(found)}, ${precision} of this model needs ${megabytes(bytes)}; ` +
          'use another computer, or export with a smaller embedding table: voxtral-onnx export SOURCE --recipe small',
      )
    }
  }
  const { vendor, architecture, description } = adapter.info
  return { deviceName: 'webgpu', precision, adapter: [vendor, architecture, description].filter(Boolean).join(' '), notes }
}

/**
 * Return the sizes of the largest buffers in bytes: the table that embeds and predicts tokens, which is alone in the
 * decoder's last data file, and the largest buffer of a cache.
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
 * Select a precision for WebAssembly.
 * @param {Manifest} manifest
 * @param {string | undefined} requested
 * @param {string} reason why WebGPU does not run it
 * @returns {Backend}
 * @throws {DeviceError} the model is too large for the CPU, or has no precision in float32
 */
function selectWasm(manifest, requested, reason) {
  const precision = selectPrecision(manifest, requested, (dtype) => dtype === 'float32', 'WebAssembly computes in float32')
  const bytes = [...manifest.filesOf(precision).values()].reduce((sum, { size }) => sum + size, 0)
  if (bytes > MAX_WASM_BYTES) {
    throw new DeviceError(`a model of ${megabytes(bytes)} needs WebGPU: on the CPU it could not keep up with speech; ${reason}`)
  }
  return { deviceName: 'wasm', precision, adapter: null, notes: [] }
}

/**
 * Select the requested precision, or the first of PRECISIONS that fits.
 * @param {Manifest} manifest
 * @param {string | undefined} requested
 * @param {(dtype: string) => boolean} fits whether the device can compute in an activation type
 * @param {string} reason what the device lacks where none fits
 * @throws {DeviceError} none fits
 */
function selectPrecision(manifest, requested, fits, reason) {
  const known = PRECISIONS.filter((name) => name in manifest.precisions)
  const precision = known.find((name) => name === (requested ?? name) && fits(manifest.precisions[name].activation_dtype))
  if (precision) return precision
  const others = known.filter((name) => fits(manifest.precisions[name].activation_dtype))
  const advice =
    others.length > 0
      ? `take ${others.join(' or ')}`
      : 'serve q4 too: voxtral-onnx serve ARTIFACT --precision q4f16,q4, after voxtral-onnx export --precision q4 where it is missing'
  throw new DeviceError(
    `this page offers ${known.join(', ')}, and ${requested ? `${requested} does not run` : 'none of them runs'} here: ${reason}; ${advice}`,
  )
}
