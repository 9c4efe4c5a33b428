/**
 * Graph capture on WebGPU: a call is captured once and then replayed, which saves the time that onnxruntime takes to launch
 * each kernel. Every call has the same shapes, and every input and output the same buffer.
 */

import { DeviceError } from '../shared/errors.js'
import { BYTES, isCache, isState, presentOf } from './manifest.js'

/**
 * @typedef {import('./device.js').Binding} Binding
 * @typedef {import('./device.js').DataType} DataType
 * @typedef {import('./device.js').Feeds} Feeds
 * @typedef {import('./device.js').Fetch} Fetch
 * @typedef {import('./device.js').Tensor} Tensor
 * @typedef {import('./device.js').WebGpu} WebGpu
 * @typedef {import('./manifest.js').GraphSpec} GraphSpec
 */

// Vite would write such small files as data: addresses, which policies refuse
const COPY_GRAPHS = {
  float32: new URL('./graphs/copy_float32.onnx?no-inline', import.meta.url),
  float16: new URL('./graphs/copy_float16.onnx?no-inline', import.meta.url),
}

/**
 * An allocator of buffers that belong to onnxruntime. A captured call must write to such buffers: onnxruntime-web 1.30.0
 * forgets other buffers between two calls, and fails.
 */
export class Allocator {
  /** @param {WebGpu} device */
  constructor(device) {
    this.device = device
    /** @type {Map<DataType, import('./device.js').OrtSession>} */
    this.sessions = new Map()
  }

  /**
   * Return a tensor of zeros on the GPU.
   * @param {number[]} dims
   * @param {'float32' | 'float16'} dtype
   */
  async zeros(dims, dtype) {
    const { ort } = this.device
    let session = this.sessions.get(dtype)
    if (!session) {
      const options = { executionProviders: ['webgpu'], preferredOutputLocation: /** @type {const} */ ('gpu-buffer') }
      session = await ort.InferenceSession.create(await copyGraph(dtype), { ...options, logSeverityLevel: 3 })
      this.sessions.set(dtype, session)
    }
    const input = this.device.tensor(this.device.buffer(dims, dtype), dims, dtype)
    const { copy } = await session.run({ values: input })
    input.gpuBuffer.destroy()
    return copy
  }
}

/**
 * The inputs, states and outputs of captured calls, in buffers that never change.
 * @implements {Binding}
 */
export class CapturedBinding {
  /**
   * @param {WebGpu} device
   * @param {import('./device.js').OrtSession} session opened with `enableGraphCapture`
   * @param {Feeds} inputs
   * @param {Feeds} outputs
   */
  constructor(device, session, inputs, outputs) {
    this.device = device
    this.session = session
    this.inputs = inputs
    this.outputs = outputs
    this.pairs = Object.keys(inputs).filter(isState).map((past) => ({ past, present: presentOf(past) }))
    this.caches = this.pairs.filter(({ past }) => isCache(past)).map(({ past }) => inputs[past])
    this.states = this.pairs.filter(({ past }) => !isCache(past)).map(({ past, present }) => [inputs[past], outputs[present]])
    this.isBound = true
    /** @type {GPUBuffer | undefined} the copy of an output that the host reads */
    this.reading = undefined
    /** @type {((slot: number) => void) | undefined} */
    this.folding = undefined
  }

  /**
   * Allocate the buffers for calls of one token.
   * @param {WebGpu} device
   * @param {import('./device.js').OrtSession} session
   * @param {GraphSpec} graph
   * @param {string} output name of the output that calls return
   * @param {number} capacity rows of the caches
   */
  static async create(device, session, graph, output, capacity) {
    const sizes = { batch: 1, seq: 1, chunk: 1, capacity }
    const inputs = /** @type {Feeds} */ ({})
    const outputs = /** @type {Feeds} */ ({})
    for (const { name, dtype, shape } of graph.inputs) {
      const type = /** @type {DataType} */ (dtype)
      const dims = shape.map((size) => sizeOf(size, sizes))
      const zeros = () => device.allocator.zeros(dims, /** @type {'float32' | 'float16'} */ (type))
      inputs[name] = isCache(name) ? await zeros() : device.tensor(device.buffer(dims, type), dims, type)
      if (isCache(name)) outputs[presentOf(name)] = inputs[name]
      else if (isState(name)) outputs[presentOf(name)] = await zeros()
    }
    const spec = graph.outputs.find(({ name }) => name === output)
    if (!spec) throw new Error(`the graph has no output ${output}`)
    const dims = spec.shape.map((size) => sizeOf(size, sizes))
    outputs[output] = await device.allocator.zeros(dims, /** @type {'float32' | 'float16'} */ (spec.dtype))
    return new CapturedBinding(device, session, inputs, outputs)
  }

  /** Throw an error: `create` allocates all buffers. */
  bindState() {
    throw new Error('a captured call cannot be bound to other buffers')
  }

  /** @type {Binding['clear']} */
  clear() {
    const { queue } = this.device.device
    for (const [{ gpuBuffer }] of this.states) queue.writeBuffer(gpuBuffer, 0, new Uint8Array(gpuBuffer.size))
  }

  /** @type {Binding['run']} */
  async run(feeds, { name, dims }) {
    for (const [input, tensor] of Object.entries(feeds)) this.write(this.inputs[input], tensor)
    const results = await this.session.run(this.inputs, this.outputs)
    for (const [output, tensor] of Object.entries(results)) if (tensor !== this.outputs[output]) tensor.dispose()
    if (this.states.length > 0) {
      const encoder = this.device.device.createCommandEncoder()
      for (const [past, present] of this.states) {
        encoder.copyBufferToBuffer(present.gpuBuffer, 0, past.gpuBuffer, 0, past.gpuBuffer.size)
      }
      this.device.device.queue.submit([encoder.finish()])
    }
    return dims ? this.outputs[name] : this.read(this.outputs[name])
  }

  /**
   * Copy a tensor from the host or the GPU into an input's buffer.
   * @param {Tensor} input
   * @param {Tensor} tensor
   */
  write({ gpuBuffer }, tensor) {
    const { device } = this.device
    if (tensor.location !== 'gpu-buffer') {
      const { buffer, byteOffset, byteLength } = /** @type {Float32Array<ArrayBuffer>} */ (tensor.data)
      device.queue.writeBuffer(gpuBuffer, 0, buffer, byteOffset, byteLength)
      return
    }
    const encoder = device.createCommandEncoder()
    encoder.copyBufferToBuffer(tensor.gpuBuffer, 0, gpuBuffer, 0, bytesOf(tensor))
    device.queue.submit([encoder.finish()])
  }

  /**
   * Copy a small float32 tensor to the host.
   * @param {Tensor} tensor
   */
  async read(tensor) {
    const { device, ort } = this.device
    const size = bytesOf(tensor)
    this.reading ??= device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
    const encoder = device.createCommandEncoder()
    encoder.copyBufferToBuffer(tensor.gpuBuffer, 0, this.reading, 0, size)
    device.queue.submit([encoder.finish()])
    await this.reading.mapAsync(GPUMapMode.READ)
    const values = new Float32Array(this.reading.getMappedRange().slice(0))
    this.reading.unmap()
    return new ort.Tensor('float32', values, tensor.dims)
  }

  /** @type {Binding['shiftRows']} */
  shiftRows(keep) {
    this.device.shiftRows(this.caches, keep)
  }

  /**
   * Copy the last call's rows, which are after the ring, over the oldest rows of the ring.
   * @param {number} slots rows of the ring, at the start of each cache
   * @param {number} slot the oldest row
   */
  fold(slots, slot) {
    this.folding ??= folding(this.device.device, this.caches, slots)
    this.folding(slot)
  }

  /** @type {Binding['dispose']} */
  dispose() {
    for (const tensor of Object.values(this.inputs)) if (!Object.values(this.outputs).includes(tensor)) tensor.gpuBuffer.destroy()
    for (const tensor of Object.values(this.outputs)) tensor.dispose()
    this.reading?.destroy()
  }
}

/**
 * Compile the shader that copies the rows after a ring into it, in each head of each cache [1, heads, slots + rows, width].
 * @param {GPUDevice} device
 * @param {Tensor[]} caches
 * @param {number} slots rows of the ring
 * @returns {(slot: number) => void} the function that runs it, writing from row `slot` of the ring on
 */
function folding(device, caches, slots) {
  const [, heads, capacity, width] = caches[0].dims
  const words = (width * BYTES[/** @type {DataType} */ (caches[0].type)]) / 4
  const code = `
    @group(0) @binding(0) var<storage, read_write> cache: array<u32>;
    @group(0) @binding(1) var<uniform> slot: u32;
    @compute @workgroup_size(${words})
    fn main(@builtin(local_invocation_id) word: vec3<u32>, @builtin(workgroup_id) place: vec3<u32>) {
      let head = place.y * ${capacity}u;
      let to = (slot + place.x) % ${slots}u;
      cache[(head + to) * ${words}u + word.x] = cache[(head + ${slots}u + place.x) * ${words}u + word.x];
    }`

  // Compile it, and bind each cache once
  const pipeline = device.createComputePipeline({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code }), entryPoint: 'main' },
  })
  const parameter = device.createBuffer({ size: 16, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST })
  const groups = caches.map(({ gpuBuffer }) =>
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [
        { binding: 0, resource: { buffer: gpuBuffer } },
        { binding: 1, resource: { buffer: parameter } },
      ],
    }),
  )

  // Run it: a workgroup copies one row of one head
  return (slot) => {
    device.queue.writeBuffer(parameter, 0, Uint32Array.of(slot))
    const encoder = device.createCommandEncoder()
    const pass = encoder.beginComputePass()
    pass.setPipeline(pipeline)
    for (const group of groups) {
      pass.setBindGroup(0, group)
      pass.dispatchWorkgroups(capacity - slots, heads)
    }
    pass.end()
    device.queue.submit([encoder.finish()])
  }
}

/**
 * Return the model that copies `values`, which are zeros, to `copy`; scripts/make_helper_graphs.py writes it.
 * @param {'float32' | 'float16'} dtype
 * @throws {DeviceError} the server does not have it
 */
export async function copyGraph(dtype) {
  const url = COPY_GRAPHS[dtype]
  if (url.protocol === 'file:') return process.getBuiltinModule('node:fs').readFileSync(url) // Node.js fetches no files
  const response = await fetch(url).catch(() => undefined)
  if (!response?.ok) {
    const found = response ? `HTTP ${response.status}` : 'no answer'
    throw new DeviceError(`${url}: expected a file of this page, got ${found}; reload the page, or serve all files of src/`)
  }
  return new Uint8Array(await response.arrayBuffer())
}

/**
 * Return the size of a tensor in bytes.
 * @param {Tensor} tensor
 */
const bytesOf = ({ dims, type }) => dims.reduce((a, b) => a * b, 1) * BYTES[/** @type {DataType} */ (type)]

/**
 * Return the size of an axis, which the manifest gives as a number, a symbol or a product such as `8*chunk`.
 * @param {number | string} size
 * @param {Record<string, number>} sizes
 */
function sizeOf(size, sizes) {
  if (typeof size === 'number') return size
  return size.split('*').reduce((product, factor) => product * (sizes[factor] ?? Number(factor)), 1)
}
