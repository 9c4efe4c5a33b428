/**
 * Errors that a user can act on, with the names of errors.py. Each message says what was expected, what was found and what
 * to do.
 */

/** The base of every error that is raised on purpose. */
class VoxtralOnnxError extends Error {
  /** Return the name of the class, which messages between threads carry. */
  get name() {
    return this.constructor.name
  }
}

/** An artifact that is missing, damaged or of another format. */
export class ArtifactError extends VoxtralOnnxError {}

/** Audio that cannot be read or holds values that are not finite, or a microphone that cannot be opened. */
export class AudioError extends VoxtralOnnxError {}

/** A device that cannot run the model: no WebGPU, no float16, too low limits, or a failed self-test. */
export class DeviceError extends VoxtralOnnxError {}

/** A failed download, or a full disk. */
export class StorageError extends VoxtralOnnxError {}

/** An option with a value that it cannot have. */
export class UsageError extends VoxtralOnnxError {}

/** @type {Record<string, new (message: string) => Error>} */
const KINDS = { ArtifactError, AudioError, DeviceError, StorageError, UsageError }

/**
 * Return what a value is, for messages: its class, or itself where it is small.
 * @param {unknown} value
 */
export function kindOf(value) {
  if (value === undefined) return 'nothing'
  return typeof value === 'object' && value !== null ? (value.constructor?.name ?? 'an object') : JSON.stringify(value) ?? typeof value
}

/** @typedef {{name: string, message: string}} ErrorValues an error as messages between threads carry it */

/**
 * Return an error's name and message, to send to another thread.
 * @param {unknown} error
 * @returns {ErrorValues}
 */
export function errorValues(error) {
  return error instanceof Error ? { name: error.name, message: error.message } : { name: 'Error', message: String(error) }
}

/**
 * Return the error that `errorValues` took apart, of the same class.
 * @param {ErrorValues} values
 * @returns {Error}
 */
export function errorOf({ name, message }) {
  return new (KINDS[name] ?? Error)(message)
}
