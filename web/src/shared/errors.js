/**
 * Errors a user can act on, with the names that errors.py has. Each message says what was expected, what was found and
 * what to do.
 */

/** Base of every error that is raised on purpose. */
class VoxtralOnnxError extends Error {
  get name() {
    return this.constructor.name
  }
}

/** The artifact is missing, damaged or of another format. */
export class ArtifactError extends VoxtralOnnxError {}

/** The audio cannot be read or holds values that are not sound; or there is no microphone. */
export class AudioError extends VoxtralOnnxError {}

/** No WebGPU, no float16, or limits of the adapter that are too low. */
export class DeviceError extends VoxtralOnnxError {}

/** A download that failed, or a disk that is full. */
export class StorageError extends VoxtralOnnxError {}

/** An option has a value that it cannot have. */
export class UsageError extends VoxtralOnnxError {}

/** @type {Record<string, new (message: string) => Error>} */
const KINDS = { ArtifactError, AudioError, DeviceError, StorageError, UsageError }

/** @typedef {{name: string, message: string}} ErrorValues an error as messages carry it */

/**
 * An error as a message carries it.
 * @param {unknown} error
 * @returns {ErrorValues}
 */
export function errorValues(error) {
  return error instanceof Error ? { name: error.name, message: error.message } : { name: 'Error', message: String(error) }
}

/**
 * The inverse of `errorValues`.
 * @param {ErrorValues} values
 * @returns {Error}
 */
export function errorOf({ name, message }) {
  return new (KINDS[name] ?? Error)(message)
}
