/** The width of text in columns of a terminal or a subtitle line. */

/** Ranges of code points that are wide or full-width in Unicode 14 (EastAsianWidth.txt), with unassigned ones between. */
const WIDE = `
  1100-115f 231a-231b 2329-232a 23e9-23ec 23f0 23f3 25fd-25fe 2614-2615 2648-2653 267f 2693 26a1 26aa-26ab
  26bd-26be 26c4-26c5 26ce 26d4 26ea 26f2-26f3 26f5 26fa 26fd 2705 270a-270b 2728 274c 274e 2753-2755 2757
  2795-2797 27b0 27bf 2b1b-2b1c 2b50 2b55 2e80-303e 3041-3247 3250-4dbf 4e00-a4c6 a960-a97c ac00-d7a3
  f900-fad9 fe10-fe19 fe30-fe6b ff01-ff60 ffe0-ffe6 16fe0-18d08 1aff0-1b2fb 1f004 1f0cf 1f18e 1f191-1f19a
  1f200-1f320 1f32d-1f335 1f337-1f37c 1f37e-1f393 1f3a0-1f3ca 1f3cf-1f3d3 1f3e0-1f3f0 1f3f4 1f3f8-1f43e 1f440
  1f442-1f4fc 1f4ff-1f53d 1f54b-1f54e 1f550-1f567 1f57a 1f595-1f596 1f5a4 1f5fb-1f64f 1f680-1f6c5 1f6cc
  1f6d0-1f6d2 1f6d5-1f6df 1f6eb-1f6ec 1f6f4-1f6fc 1f7e0-1f7f0 1f90c-1f93a 1f93c-1f945 1f947-1f9ff 1fa70-1faf6
  20000-2ebe0 2f800-2fa1d 30000-3134a
`
  .trim()
  .split(/\s+/)
  .map((range) => range.split('-').map((hex) => parseInt(hex, 16)))
  .map(([first, last = first]) => [first, last])

/**
 * Count the columns of a text: an East Asian wide character takes two.
 * @param {string} text
 */
export function columns(text) {
  let count = 0
  for (const character of text) count += isWide(/** @type {number} */ (character.codePointAt(0))) ? 2 : 1
  return count
}

/**
 * Return whether a character takes two columns.
 * @param {number} codePoint
 */
function isWide(codePoint) {
  if (codePoint < WIDE[0][0]) return false
  let [low, high] = [0, WIDE.length - 1]
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (WIDE[middle][0] <= codePoint) low = middle
    else high = middle - 1
  }
  return codePoint <= WIDE[low][1]
}
