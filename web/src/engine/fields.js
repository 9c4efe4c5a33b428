/**
 * Validators of JSON from outside: the counterpart of decode.py. A `Kind` takes a value of JSON.parse and its path, and
 * returns the valid value, or throws a FieldError that says where it is and what was expected.
 */

/** @typedef {(value: unknown, at: string) => any} Kind a validator */

/** A value that its kind refuses. */
export class FieldError extends Error {}

/**
 * Throw a FieldError.
 * @param {string} expected
 * @param {string} at
 * @returns {never}
 */
function refuse(expected, at) {
  throw new FieldError(`expected ${expected}${at && ` at ${at.slice(1, 200)}`}`)
}

/**
 * Return the kind of integers within bounds.
 * @param {number} least
 * @param {number} most
 * @returns {Kind}
 */
export function integer(least, most) {
  return (value, at) => {
    const is = Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most
    return is ? value : refuse(`an integer from ${least} to ${most}`, at)
  }
}

/**
 * Return the kind of numbers within bounds.
 * @param {number} least
 * @param {number} most
 * @returns {Kind}
 */
export function number(least, most) {
  return (value, at) => {
    return typeof value === 'number' && value >= least && value <= most ? value : refuse(`a number from ${least} to ${most}`, at)
  }
}

/**
 * Return the kind of texts of a length, in code points, that match a pattern.
 * @param {number} least
 * @param {number} most
 * @param {RegExp} [pattern]
 * @param {string} [words] the pattern in words, for messages
 * @returns {Kind}
 */
export function text(least, most, pattern = /^/, words = `${least} to ${most} characters`) {
  return (value, at) => {
    if (typeof value !== 'string' || value.length > 2 * most || !value.isWellFormed() || !pattern.test(value)) refuse(words, at)
    const length = value.length > most ? [...value].length : value.length // of code points
    return length >= least && length <= most ? value : refuse(words, at)
  }
}

/**
 * Return the kind of a few values.
 * @param {...(string | number)} values
 * @returns {Kind}
 */
export function oneOf(...values) {
  return (value, at) => (values.includes(/** @type {any} */ (value)) ? value : refuse(`one of ${values.join(', ')}`, at))
}

/**
 * Return the kind of lists.
 * @param {Kind} kind of every element
 * @param {number} [most] elements
 * @returns {Kind}
 */
export function list(kind, most = Infinity) {
  return (value, at) => {
    if (!Array.isArray(value) || value.length > most) refuse(most < Infinity ? `a list of at most ${most}` : 'a list', at)
    return /** @type {unknown[]} */ (value).map((element, i) => kind(element, `${at}.${i}`))
  }
}

/**
 * Return the kind of objects with any names. They get no prototype, so that names such as `constructor` mean nothing else.
 * @param {Kind} key
 * @param {Kind} kind of every value
 * @returns {Kind}
 */
export function mapOf(key, kind) {
  return (value, at) => {
    const found = Object.create(null)
    for (const [name, each] of Object.entries(object(value, at))) found[key(name, at)] = kind(each, `${at}.${name}`)
    return found
  }
}

/**
 * Return the kind of objects with these fields; other fields are dropped.
 * @param {Record<string, Kind>} fields
 * @param {(values: any) => string | undefined} [check] returns what was expected where the fields do not fit together
 * @returns {Kind}
 */
export function record(fields, check) {
  return (value, at) => {
    const given = object(value, at)
    const found = Object.fromEntries(Object.entries(fields).map(([name, kind]) => {
      return [name, kind(given[name], `${at}.${name}`)]
    }))
    const expected = check?.(found)
    return expected ? refuse(expected, at) : found
  }
}

/**
 * Return the kind of fields that may be absent.
 * @param {Kind} kind
 * @param {unknown} otherwise the value of an absent field
 * @returns {Kind}
 */
export function optional(kind, otherwise) {
  return (value, at) => (value === undefined ? otherwise : kind(value, at))
}

/**
 * Return the kind of values that may be null.
 * @param {Kind} kind
 * @returns {Kind}
 */
export function orNull(kind) {
  return (value, at) => (value === null ? null : kind(value, at))
}

/**
 * Return a value that must be an object.
 * @param {unknown} value
 * @param {string} at
 * @returns {Record<string, unknown>}
 */
function object(value, at) {
  const is = typeof value === 'object' && value !== null && !Array.isArray(value)
  return is ? /** @type {Record<string, unknown>} */ (value) : refuse('an object', at)
}

// Kinds that manifest and certificate share

export const COUNT = integer(0, Number.MAX_SAFE_INTEGER)
export const NAME = text(1, 256)
export const SHA256 = text(64, 64, /^[0-9a-f]{64}$/, 'a sha256 in hexadecimal digits')
export const DELAY = integer(1, 30) // tokens; 2400 ms, the longest delay the model was trained with
export const TOKEN_ID = integer(0, (1 << 24) - 1)
// A file's name below a folder on every system: no `..`, drive, NTFS stream or control characters
export const RELATIVE_NAME = text(
  1,
  255,
  /^(?!(?:.*\/)?\.{0,2}(?:\/|$))[^\x00-\x1f\x7f-\x9f:\\\u2028-\u202e\u2066-\u2069]+$/s,
  "a file below the folder: no '/' first, no '..', ':', '\\' or control characters",
)
