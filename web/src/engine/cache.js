/** The key-value caches and convolution states that a graph carries from call to call, in fixed buffers (cache.py). */

import { tensorOf } from './device.js'
import { isCache, isState, presentOf } from './manifest.js'

const VISIBLE_STEP = 256 // rows; few distinct numbers, because kernels round differently for different numbers of rows

/**
 * The key-value buffers of one stream, bound as past and present, and the convolution states beside them. The manifest's
 * `CacheSpec` says which rows are shifted and when.
 */
export class KVCache {
  /**
   * @param {import('./session.js').Session} session
   * @param {import('./manifest.js').CacheSpec} spec
   */
  constructor(session, spec) {
    this.session = session
    this.spec = spec
    this.position = 0
    this.binding = session.acquire()
    if (this.binding.isBound) {
      this.binding.clear()
    } else {
      this.bindState()
    }
    const cos = session.graph.inputs.find(({ name }) => name === 'cos')
    this.dtype = /** @type {import('./device.js').DataType} */ (cos?.dtype)
    this.inverseFrequencies = Array.from(
      { length: spec.head_dim / 2 },
      (_, j) => spec.rope_theta ** ((-2 * j) / spec.head_dim),
    )
  }

  /** Allocate the buffers and bind them. */
  bindState() {
    for (const { name, dtype, shape } of this.session.graph.inputs) {
      if (!isState(name)) continue
      const dims = shape.map((size) => (size === 'batch' ? 1 : size === 'capacity' ? this.spec.capacity : Number(size)))
      const type = /** @type {import('./device.js').DataType} */ (dtype)
      this.binding.bindState(name, presentOf(name), dims, type, isCache(name))
    }
  }

  /** Give the buffers back for another stream. */
  release() {
    this.session.idle.push(this.binding)
  }

  /** Return how many rows the next call may write: no call crosses a shift. */
  get slotsLeft() {
    return this.spec.slotsLeft(this.position)
  }

  /** Return the buffer's row that the next call writes first. */
  get row() {
    return this.spec.row(this.position)
  }

  /**
   * Return the inputs that place the next `rows` rows: rotary angles by absolute position, and buffer rows to write. Angles
   * are computed in float64, so a stream may run for any time.
   * @param {number} rows
   * @returns {import('./device.js').Feeds}
   */
  positions(rows) {
    if (!(rows > 0 && rows <= this.slotsLeft)) {
      throw new Error(`${rows} rows at position ${this.position} cross a shift of the cache`)
    }
    const { ort } = this.session.device
    const angles = Array.from({ length: rows }, (_, row) =>
      this.inverseFrequencies.map((frequency) => (this.position + row) * frequency),
    ).flat()
    const dims = [1, rows, this.inverseFrequencies.length]
    return {
      cos: tensorOf(ort, this.dtype, angles.map(Math.cos), dims),
      sin: tensorOf(ort, this.dtype, angles.map(Math.sin), dims),
      seqlens_k: tensorOf(ort, 'int32', [this.row + rows - 1], [1]),
      total_sequence_length: tensorOf(ort, 'int32', [this.visibleRows(rows)], []),
    }
  }

  /**
   * Return how many of the buffer's rows attention reads: WebGPU's kernels take as long for rows without keys as for rows
   * with keys. It is always more than `rows`, because GroupQueryAttention takes an equal number for "no past".
   * @param {number} rows
   */
  visibleRows(rows) {
    const written = this.row + rows
    return Math.min(this.spec.capacity, VISIBLE_STEP * Math.ceil((written + 1) / VISIBLE_STEP))
  }

  /**
   * Count rows as written; where the buffer is full, shift its last `keep` rows to the front.
   * @param {number} rows
   */
  advance(rows) {
    const isFull = this.row + rows === this.spec.capacity
    this.position += rows
    if (isFull) this.binding.shiftRows(this.spec.keep)
  }
}

/**
 * The cache of captured calls, which take one token each. Their attention sees every row up to the last one written, so the
 * buffer holds a ring of the rows before the call and the call's own rows after it. Together these are the window, within
 * the two frames by which the windows of an encoder call's four frames differ. A buffer smaller than the window is shifted
 * as usual.
 */
export class CapturedCache extends KVCache {
  /** Return how many rows the next call writes. */
  get slotsLeft() {
    return this.spec.rows_per_token
  }

  /** Return the buffer's row that the next call writes first: in the ring, and after it once the ring is full. */
  get row() {
    return isRing(this.spec) ? Math.min(this.position, ringRows(this.spec)) : super.row
  }

  /**
   * Return how many of the buffer's rows attention reads: all that are written.
   * @param {number} rows
   */
  visibleRows(rows) {
    return this.row + rows
  }

  /**
   * Count rows as written; where the ring is full, copy them over its oldest rows.
   * @param {number} rows
   */
  advance(rows) {
    if (!isRing(this.spec)) return super.advance(rows)
    const binding = /** @type {import('./graph-capture.js').CapturedBinding} */ (this.binding)
    const ring = ringRows(this.spec)
    if (this.position >= ring) binding.fold(ring, this.position % ring)
    this.position += rows
  }
}

/**
 * Return whether the buffer holds the whole window, and so a ring.
 * @param {import('./manifest.js').CacheSpec} spec
 */
const isRing = ({ capacity, window }) => capacity > window

/**
 * Return the rows of the ring: whole tokens within the window before a call.
 * @param {import('./manifest.js').CacheSpec} spec
 */
const ringRows = ({ window, rows_per_token: rows }) => rows * Math.floor((window - 1) / rows)

/**
 * Return the rows of a captured call's buffers.
 * @param {import('./manifest.js').CacheSpec} spec
 */
export const capturedRows = (spec) => (isRing(spec) ? ringRows(spec) + spec.rows_per_token : spec.capacity)
