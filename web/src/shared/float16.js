/** Rounding of numbers to float16. onnxruntime-web takes float16 as bits, because not every browser has Float16Array. */

/**
 * Return the bits of the float16 nearest to each number, ties to even.
 * @param {ArrayLike<number>} values
 */
export function toFloat16(values) {
  return Uint16Array.from(values, float16Bits)
}

/**
 * Return the bits of the float16 nearest to a number.
 * @param {number} value
 */
function float16Bits(value) {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const size = Math.abs(value)
  if (Number.isNaN(size)) return 0x7e00
  const exponent = Math.max(-14, Math.floor(Math.log2(size || Number.MIN_VALUE)))
  const steps = roundHalfEven(size * 2 ** (10 - exponent)) // the last place is 2^(exponent - 10)
  const bits = ((exponent + 14) << 10) + steps // a carry into the exponent is the next power of two
  return sign | Math.min(bits, 0x7c00)
}

/**
 * Return the nearest integer, ties to even, as Python's `round` does.
 * @param {number} value
 */
export function roundHalfEven(value) {
  const floor = Math.floor(value)
  const rest = value - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor
}
