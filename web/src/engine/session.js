/** onnxruntime sessions, checked against the manifest (session.py). */

import { CapturedCache, KVCache, capturedRows } from './cache.js'
import { CapturedBinding } from './graph-capture.js'
import { WebGpu } from './device.js'
import { ArtifactError, DeviceError } from '../shared/errors.js'
import { withoutWindow } from './graph.js'

/**
 * @typedef {import('./device.js').Feeds} Feeds
 * @typedef {import('./device.js').Fetch} Fetch
 * @typedef {(path: string) => Promise<Blob>} ReadFile return one file of an artifact
 */

/** One graph of an artifact, loaded and checked. */
export class Session {
  /**
   * @param {import('./device.js').Device} device
   * @param {import('./manifest.js').GraphSpec} graph
   * @param {import('./device.js').OrtSession} ort
   * @param {boolean} captured whether calls are captured; then there is one binding only, for calls of one token
   */
  constructor(device, graph, ort, captured) {
    this.device = device
    this.graph = graph
    this.ort = ort
    this.captured = captured
    /** @type {import('./device.js').Binding[]} */
    this.idle = []
  }

  /**
   * Open a graph.
   * @param {import('./device.js').Device} device
   * @param {import('./manifest.js').GraphSpec} graph
   * @param {ReadFile} readFile
   * @throws {ArtifactError} the file does not load, or its inputs or outputs are not those in the manifest
   */
  static async open(device, graph, readFile) {
    return new Session(device, graph, await load(device, graph, readFile, false), false)
  }

  /**
   * Open a graph with a cache; its calls are captured where the device captures calls.
   * @param {import('./device.js').Device} device
   * @param {import('./manifest.js').GraphSpec} graph
   * @param {ReadFile} readFile
   * @param {import('./manifest.js').CacheSpec} spec
   * @param {string} output name of the output that calls return
   * @throws {ArtifactError} as `open`
   */
  static async openWithCache(device, graph, readFile, spec, output) {
    if (!(device instanceof WebGpu) || !device.captures) return Session.open(device, graph, readFile)
    const session = new Session(device, graph, await load(device, graph, readFile, true), true)
    session.idle.push(await CapturedBinding.create(device, session.ort, graph, output, capturedRows(spec)))
    return session
  }

  /**
   * Return buffers for one stream.
   * @param {import('./manifest.js').CacheSpec} spec
   */
  newCache(spec) {
    return this.captured ? new CapturedCache(this, spec) : new KVCache(this, spec)
  }

  /**
   * Return the binding of a stream that has ended, or a new one.
   * @throws {DeviceError} calls are captured, and another stream has the only binding
   */
  acquire() {
    const binding = this.idle.pop()
    if (!binding && this.captured) throw new DeviceError('one stream at a time runs on WebGPU; finish or stop the other one')
    return binding ?? this.device.bind(this.ort)
  }

  /**
   * Run a graph without state and return its first output.
   * @param {Feeds} feeds
   */
  async run(feeds) {
    const [{ name }] = this.graph.outputs
    return (await this.ort.run(feeds, [name]))[name]
  }

  /**
   * Run the next rows of a cache, whose buffers are bound as past and present, and return one output.
   * @param {KVCache} cache advances by `rows`
   * @param {number} rows
   * @param {Feeds} feeds inputs other than those of the cache
   * @param {Fetch} fetch
   */
  async step(cache, rows, feeds, fetch) {
    const output = await cache.binding.run({ ...feeds, ...cache.positions(rows) }, fetch)
    cache.advance(rows)
    return output
  }

  /** Free the session and its buffers. */
  async release() {
    for (const binding of this.idle) binding.dispose()
    this.idle = []
    await this.ort.release()
  }
}

/**
 * Load a graph and its weights, and check the names of its inputs and outputs.
 * @param {import('./device.js').Device} device
 * @param {import('./manifest.js').GraphSpec} graph
 * @param {ReadFile} readFile
 * @param {boolean} captured
 */
async function load(device, graph, readFile, captured) {
  const bytes = new Uint8Array(await (await readFile(graph.path)).arrayBuffer())
  const externalData = await Promise.all(
    graph.data.map(async (path) => ({ path: path.slice(path.lastIndexOf('/') + 1), data: await readFile(path) })),
  )
  let ort
  try {
    ort = await device.open(captured ? withoutWindow(bytes) : bytes, externalData, captured)
  } catch (error) {
    throw new ArtifactError(`${graph.path}: onnxruntime cannot load it (${error}); export again, or reload the page`)
  }
  checkNames(graph.path, 'input', ort.inputNames, graph.inputs)
  checkNames(graph.path, 'output', ort.outputNames, graph.outputs)
  return ort
}

/**
 * Check that a file has the inputs or outputs of the manifest, and no others.
 * @param {string} path
 * @param {string} kind input or output, for messages
 * @param {readonly string[]} found
 * @param {import('./manifest.js').TensorSpec[]} expected
 */
function checkNames(path, kind, found, expected) {
  const want = expected.map(({ name }) => name)
  const wrong = [...want.filter((name) => !found.includes(name)), ...found.filter((name) => !want.includes(name))]
  if (wrong.length > 0) {
    throw new ArtifactError(`${path}: ${kind} '${wrong[0]}' is not both in the file and in the manifest; export again`)
  }
}
