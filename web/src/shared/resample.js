/** A streaming resampler: a windowed sinc, evaluated at each output sample. */

const ZERO_CROSSINGS = 32 // of the sinc on each side; with the window a stop band below -100 dB
const KAISER_BETA = 10.06 // 100 dB: 0.1102 (100 - 8.7), Kaiser's formula
const ROLL_OFF = 0.945 // of the lower Nyquist frequency: half of the transition band lies below it

/** A resampler of one stream, fed block by block. */
export class Resampler {
  /**
   * @param {number} from Hz
   * @param {number} to Hz
   */
  constructor(from, to) {
    this.isCopy = from === to
    this.step = from / to // input samples for one output sample
    const cutoff = ROLL_OFF * Math.min(1, to / from)
    const half = Math.ceil(ZERO_CROSSINGS / cutoff)
    this.half = half
    const [up, down] = reduced(to, from)
    this.up = up
    this.down = down
    /** @type {Map<number, Float32Array>} filters by phase, in units of 1 / up of an input sample */
    this.filters = new Map()
    this.cutoff = cutoff
    this.input = new Float32Array(half) // silence before the first sample
    this.dropped = -half // index of input[0] in the whole stream
    this.count = 0 // outputs so far
    this.total = 0 // inputs so far
  }

  /**
   * Return the output samples that these input samples complete.
   * @param {Float32Array} samples
   */
  push(samples) {
    this.total += samples.length
    if (this.isCopy) return samples
    const joined = new Float32Array(this.input.length + samples.length)
    joined.set(this.input)
    joined.set(samples, this.input.length)
    this.input = joined
    return this.take(this.dropped + joined.length - this.half)
  }

  /** Return the remaining output samples, so that the output lasts as long as the input. */
  end() {
    if (this.isCopy) return new Float32Array(0)
    const length = Math.round((this.total * this.up) / this.down)
    const joined = new Float32Array(this.input.length + 2 * this.half)
    joined.set(this.input)
    this.input = joined
    const rest = this.take(Infinity)
    return rest.subarray(0, Math.max(0, length - (this.count - rest.length)))
  }

  /**
   * Return the outputs whose centre lies before an input index, and drop input that no later one needs.
   * @param {number} end
   */
  take(end) {
    const limit = Math.min(end, this.dropped + this.input.length - this.half)
    const outputs = Math.max(0, Math.ceil((limit * this.up) / this.down) - this.count)
    const output = new Float32Array(outputs)

    // Each output is the sum of the inputs around it, weighted by the filter of its phase
    for (let i = 0; i < outputs; i++) {
      const ticks = (this.count + i) * this.down // in units of 1 / up of an input sample
      const whole = Math.floor(ticks / this.up)
      const filter = this.filterOf(ticks - whole * this.up)
      const first = whole - this.half + 1 - this.dropped
      let sum = 0
      for (let j = 0; j < filter.length; j++) sum += filter[j] * this.input[first + j]
      output[i] = sum
    }

    // Drop input that no later output needs
    this.count += outputs
    const next = Math.floor((this.count * this.down) / this.up) - this.half + 1 - this.dropped
    if (next > 0) {
      this.input = this.input.slice(next)
      this.dropped += next
    }
    return output
  }

  /**
   * Return the weights of the inputs around an output: from `half - 1` before to `half` after the input sample before it.
   * @param {number} phase
   */
  filterOf(phase) {
    let filter = this.filters.get(phase)
    if (!filter) {
      filter = Float32Array.from({ length: 2 * this.half }, (_, j) => {
        const distance = j - this.half + 1 - phase / this.up
        return this.cutoff * sinc(this.cutoff * distance) * kaiser(distance / this.half)
      })
      const gain = filter.reduce((sum, weight) => sum + weight, 0)
      filter = filter.map((weight) => weight / gain)
      this.filters.set(phase, filter)
    }
    return filter
  }
}

/**
 * Return sin(πx) / (πx).
 * @param {number} x
 */
function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x)
}

/**
 * Return the Kaiser window.
 * @param {number} x from -1 to 1
 */
function kaiser(x) {
  return Math.abs(x) > 1 ? 0 : bessel(KAISER_BETA * Math.sqrt(1 - x * x)) / bessel(KAISER_BETA)
}

/**
 * Return the modified Bessel function of the first kind and order 0.
 * @param {number} x
 */
function bessel(x) {
  let [sum, term] = [1, 1]
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2
    sum += term
  }
  return sum
}

/**
 * Reduce a fraction of two rates to its lowest terms.
 * @param {number} a
 * @param {number} b
 */
function reduced(a, b) {
  let [x, y] = [Math.round(a), Math.round(b)]
  while (y) [x, y] = [y, x % y]
  return [Math.round(a) / x, Math.round(b) / x]
}
