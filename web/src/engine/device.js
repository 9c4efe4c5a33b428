/**
 * The devices that run graphs, and the binding of a call's inputs, states and outputs there: WebGPU, or WebAssembly for
 * small artifacts (device/base.py).
 */

import { Allocator } from './graph-capture.js'
import { DeviceError } from '../shared/errors.js'
import { toFloat16 } from '../shared/float16.js'
import { BYTES } from './manifest.js'
import { BUILDS } from './ort.js'

/**
 * @typedef {typeof import('onnxruntime-common')} Ort
 * @typedef {import('onnxruntime-common').Tensor} Tensor
 * @typedef {import('onnxruntime-common').InferenceSession} OrtSession
 * @typedef {Record<string, Tensor>} Feeds
 * @typedef {'float32' | 'float16' | 'int32' | 'int64'} DataType
 * @typedef {{name: string, dims?: number[], dtype?: DataType}} Fetch the output to return; with `dims` it stays on the device
 *
 * @typedef {object} Binding the inputs and outputs of one session for one stream
 * @property {(past: string, present: string, dims: number[], dtype: DataType, appends: boolean) => void} bindState allocate a
 *   buffer of zeros that is the input `past` and the output `present` of every call; `appends`: calls write after the rows
 *   they read, so input and output may be one buffer
 * @property {boolean} isBound whether it has buffers
 * @property {() => void} clear zero the states that do not append, for another stream
 * @property {(feeds: Feeds, fetch: Fetch) => Promise<Tensor>} run run a call and return one output
 * @property {(keep: number) => void} shiftRows shift the last `keep` rows along the third axis to the front, in all
 *   buffers that append
 * @property {() => void} dispose free the buffers
 *
 * @typedef {object} Device
 * @property {'webgpu' | 'wasm'} name
 * @property {Ort} ort
 * @property {boolean} captures whether calls are captured and replayed
 * @property {(graph: Uint8Array, externalData: {path: string, data: Blob}[], captured: boolean) => Promise<OrtSession>} open
 * @property {(session: OrtSession) => Binding} bind
 * @property {(tensor: Tensor, at: number, rows: number) => Tensor} slice return rows [1, rows, n] of a tensor
 *   [1, m, n], valid until the next call
 */

const QUIET = 3 // the severity from which onnxruntime logs: errors

/**
 * Load onnxruntime-web and return a device. WebGPU takes a build with the native provider: the one on JavaScript promise
 * integration where the browser has it, which reads weights out of Blobs range by range, else the one that reads every file
 * whole. Both lack the CPU's GatherBlockQuantized, so WebAssembly has a build of its own.
 * @param {Device['name']} name
 * @returns {Promise<Device>}
 * @throws {DeviceError} onnxruntime-web is not in vendor/
 */
export async function openDevice(name) {
  const { load, mjs, wasm } = BUILDS[name === 'wasm' ? 'wasm' : 'Suspending' in WebAssembly ? 'jspi' : 'asyncify']
  let ort
  try {
    ort = await load()
  } catch (error) {
    throw new DeviceError(`onnxruntime-web is not in this page's vendor folder (${error}); in the source tree run: make web`)
  }
  ort.env.wasm.wasmPaths = { mjs: mjs.href, wasm: wasm.href }
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency >> 1 || 1) : 1
  if (name === 'wasm') return new Wasm(ort)
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' })
  return new WebGpu(ort, adapter !== null && canCapture(adapter))
}

/**
 * Return whether calls can be captured on an adapter: only the attention kernels that need subgroups can be.
 * @param {GPUAdapter} adapter
 */
export const canCapture = (adapter) => adapter.features.has('subgroups')

/**
 * Return a tensor on the host, in the type of a graph's input.
 * @param {Ort} ort
 * @param {DataType} dtype
 * @param {ArrayLike<number>} values
 * @param {number[]} dims
 */
export function tensorOf(ort, dtype, values, dims) {
  if (dtype === 'float16') return new ort.Tensor('float16', toFloat16(values), dims)
  if (dtype === 'int64') return new ort.Tensor('int64', BigInt64Array.from(Array.from(values), BigInt), dims)
  if (dtype === 'int32') return new ort.Tensor('int32', Int32Array.from(values), dims)
  return new ort.Tensor('float32', Float32Array.from(values), dims)
}

/** The CPU: onnxruntime's kernels in WebAssembly. onnxruntime-web copies every buffer in and out at each call. */
export class Wasm {
  /** @param {Ort} ort */
  constructor(ort) {
    this.ort = ort
    /** @type {'wasm'} */
    this.name = 'wasm'
    this.captures = false
  }

  /** @type {Device['open']} */
  open(graph, externalData) {
    return this.ort.InferenceSession.create(graph, { executionProviders: ['wasm'], externalData, logSeverityLevel: QUIET })
  }

  /** @type {Device['bind']} */
  bind(session) {
    return new WasmBinding(this.ort, session)
  }

  /** @type {Device['slice']} */
  slice(tensor, at, rows) {
    const width = tensor.dims[2]
    const data = /** @type {Float32Array} */ (tensor.data).subarray(at * width, (at + rows) * width)
    return new this.ort.Tensor(/** @type {'float32'} */ (tensor.type), data, [1, rows, width])
  }
}

/**
 * The states of one stream on the CPU: each call's outputs are the next one's inputs.
 * @implements {Binding}
 */
class WasmBinding {
  /**
   * @param {Ort} ort
   * @param {OrtSession} session
   */
  constructor(ort, session) {
    this.ort = ort
    this.session = session
    /** @type {{past: string, present: string, dims: number[], dtype: DataType, appends: boolean}[]} */
    this.bound = []
    /** @type {Feeds} */
    this.pasts = {}
  }

  /** @type {Binding['bindState']} */
  bindState(past, present, dims, dtype, appends) {
    this.bound.push({ past, present, dims, dtype, appends })
    this.pasts[past] = zeros(this.ort, dtype, dims)
  }

  /** Return whether it has buffers. */
  get isBound() {
    return this.bound.length > 0
  }

  /** @type {Binding['clear']} */
  clear() {
    for (const { past, dims, dtype, appends } of this.bound) {
      if (!appends) this.pasts[past] = zeros(this.ort, dtype, dims)
    }
  }

  /** @type {Binding['run']} */
  async run(feeds, fetch) {
    const outputs = [fetch.name, ...this.bound.map(({ present }) => present)]
    const results = await this.session.run({ ...feeds, ...this.pasts }, outputs)
    for (const { past, present } of this.bound) this.pasts[past] = results[present]
    return results[fetch.name]
  }

  /** @type {Binding['shiftRows']} */
  shiftRows(keep) {
    for (const { past, dims, appends } of this.bound) {
      if (!appends) continue
      const [, heads, capacity, width] = dims
      const data = /** @type {Float32Array} */ (this.pasts[past].data)
      for (let head = 0; head < heads; head++) {
        const start = head * capacity * width
        data.copyWithin(start, start + (capacity - keep) * width, start + capacity * width)
      }
    }
  }

  /** @type {Binding['dispose']} */
  dispose() {
    this.pasts = {}
  }
}

/** The GPU: onnxruntime's WebGPU provider. Buffers stay there; one small output of a call comes back. */
export class WebGpu {
  /**
   * @param {Ort} ort
   * @param {boolean} captures
   */
  constructor(ort, captures) {
    this.ort = ort
    this.captures = captures
    /** @type {'webgpu'} */
    this.name = 'webgpu'
    this.allocator = new Allocator(this)
    /** @type {GPUDevice | undefined} what onnxruntime computes on, once a session is open */
    this.gpu = undefined
    /** @type {Map<string, GPUBuffer>} buffers that one call fills and the next one reads */
    this.scratch = new Map()
  }

  /** @type {Device['open']} */
  async open(graph, externalData, captured) {
    const session = await this.ort.InferenceSession.create(graph, {
      executionProviders: [{ name: 'webgpu' }], // an object: with a plain name enableGraphCapture is ignored
      externalData,
      logSeverityLevel: QUIET,
      enableGraphCapture: captured,
    })
    this.gpu = await this.ort.env.webgpu.device
    return session
  }

  /** @type {Device['bind']} */
  bind(session) {
    return new WebGpuBinding(this, session)
  }

  /** @type {Device['slice']} */
  slice(tensor, at, rows) {
    const [, available, width] = tensor.dims
    if (rows === available) return tensor
    const dtype = /** @type {DataType} */ (tensor.type)
    const bytes = width * BYTES[dtype]
    const part = this.kept('rows', [1, rows, width], dtype)
    const encoder = this.device.createCommandEncoder()
    encoder.copyBufferToBuffer(tensor.gpuBuffer, at * bytes, part.gpuBuffer, 0, rows * bytes)
    this.device.queue.submit([encoder.finish()])
    return part
  }

  /** Return the GPU that onnxruntime computes on. */
  get device() {
    if (!this.gpu) throw new DeviceError('no graph was opened on the GPU; reload the page')
    return this.gpu
  }

  /**
   * Return a tensor in the buffer that is kept for this name and shape.
   * @param {string} name
   * @param {number[]} dims
   * @param {DataType} dtype
   */
  kept(name, dims, dtype) {
    const key = `${name} ${dims}`
    let buffer = this.scratch.get(key)
    if (!buffer) {
      buffer = this.buffer(dims, dtype)
      this.scratch.set(key, buffer)
    }
    return this.tensor(buffer, dims, dtype)
  }

  /**
   * Allocate a buffer for a tensor.
   * @param {number[]} dims
   * @param {DataType} dtype
   */
  buffer(dims, dtype) {
    return this.device.createBuffer({
      size: 16 * Math.ceil((dims.reduce((a, b) => a * b, 1) * BYTES[dtype]) / 16), // onnxruntime binds in steps of 16
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    })
  }

  /**
   * Shift the last `keep` rows of caches [1, heads, rows, width] to the front.
   * @param {Tensor[]} caches
   * @param {number} keep
   */
  shiftRows(caches, keep) {
    const encoder = this.device.createCommandEncoder()
    for (const { dims, type, gpuBuffer } of caches) {
      const [, heads, capacity, width] = dims
      const dtype = /** @type {DataType} */ (type)
      const row = width * BYTES[dtype]
      const stage = this.kept('stage', [1, heads, keep, width], dtype).gpuBuffer // WebGPU copies between two buffers only
      for (let head = 0; head < heads; head++) {
        const last = ((head + 1) * capacity - keep) * row
        encoder.copyBufferToBuffer(gpuBuffer, last, stage, head * keep * row, keep * row)
        encoder.copyBufferToBuffer(stage, head * keep * row, gpuBuffer, head * capacity * row, keep * row)
      }
    }
    this.device.queue.submit([encoder.finish()])
  }

  /**
   * Return a tensor whose values are in a buffer.
   * @param {GPUBuffer} buffer
   * @param {number[]} dims
   * @param {DataType} dtype
   */
  tensor(buffer, dims, dtype) {
    return this.ort.Tensor.fromGpuBuffer(buffer, { dataType: dtype, dims })
  }
}

/**
 * The states of one stream on the GPU. Caches are one buffer, other states two that change places at each call.
 * @implements {Binding}
 */
class WebGpuBinding {
  /**
   * @param {WebGpu} device
   * @param {OrtSession} session
   */
  constructor(device, session) {
    this.device = device
    this.session = session
    /** @type {{past: string, present: string, dims: number[], bytes: number, input: Tensor, output: Tensor}[]} */
    this.bound = []
  }

  /** @type {Binding['bindState']} */
  bindState(past, present, dims, dtype, appends) {
    const tensor = () => this.device.tensor(this.device.buffer(dims, dtype), dims, dtype)
    const input = tensor()
    this.bound.push({ past, present, dims, bytes: BYTES[dtype], input, output: appends ? input : tensor() })
  }

  /** Return whether it has buffers. */
  get isBound() {
    return this.bound.length > 0
  }

  /** @type {Binding['clear']} */
  clear() {
    for (const { input, output } of this.bound) {
      if (input === output) continue
      this.device.device.queue.writeBuffer(input.gpuBuffer, 0, new Uint8Array(input.gpuBuffer.size))
    }
  }

  /** @type {Binding['run']} */
  async run(feeds, { name, dims, dtype }) {
    /** @type {Record<string, Tensor | null>} */
    const fetches = { [name]: dims && dtype ? this.device.kept(name, dims, dtype) : null }
    const pasts = Object.fromEntries(this.bound.map(({ past, input }) => [past, input]))
    for (const { present, output } of this.bound) fetches[present] = output
    const results = await this.session.run({ ...feeds, ...pasts }, fetches)
    for (const buffer of this.bound) [buffer.input, buffer.output] = [buffer.output, buffer.input]
    return results[name]
  }

  /** @type {Binding['shiftRows']} */
  shiftRows(keep) {
    this.device.shiftRows(this.bound.filter(({ input, output }) => input === output).map(({ input }) => input), keep)
  }

  /** @type {Binding['dispose']} */
  dispose() {
    for (const { input, output } of this.bound) for (const { gpuBuffer } of new Set([input, output])) gpuBuffer.destroy()
    this.bound = []
  }
}

/**
 * Return a tensor of zeros on the host.
 * @param {Ort} ort
 * @param {DataType} dtype
 * @param {number[]} dims
 */
function zeros(ort, dtype, dims) {
  const size = dims.reduce((a, b) => a * b, 1)
  if (dtype === 'float16') return new ort.Tensor('float16', new Uint16Array(size), dims)
  return new ort.Tensor('float32', new Float32Array(size), dims)
}
