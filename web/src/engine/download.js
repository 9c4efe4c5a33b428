/** Downloads into the browser's store, checked piece by piece as they arrive; a checked piece is never downloaded again. */

import { ArtifactError, StorageError } from '../shared/errors.js'
import { PIECE_SIZE } from './manifest.js'

const WAITS = [500, 1000, 2000, 4000, 8000] // milliseconds before each further try

/**
 * Download one file into the store, resuming after what is there.
 * @param {string} url
 * @param {string} name of the file in messages
 * @param {import('./manifest.js').FileSpec} spec
 * @param {import('./store.js').Store} store
 * @param {(bytes: number, isNew: boolean) => void} onBytes called with the bytes that are kept already and with every read;
 *   negative where a piece begins again
 * @param {number[]} [waits]
 * @throws {ArtifactError} a piece differs from its hash in the manifest, or the server refuses the file
 * @throws {StorageError} the server does not answer, or the disk is full; checked pieces are kept
 */
export async function download(url, name, spec, store, onBytes, waits = WAITS) {
  let kept = await keptBytes(spec, store)
  let reported = kept
  onBytes(kept, false)
  for (let tries = 0; kept < spec.size; ) {
    const before = kept
    try {
      kept = await receive(url, name, spec, store, kept, (bytes) => {
        reported += bytes
        onBytes(bytes, true)
      })
    } catch (error) {
      if (error instanceof ArtifactError || error instanceof StorageError) throw error
      kept = await store.size(spec.sha256)
      onBytes(kept - reported, false)
      reported = kept
      tries = kept > before ? 0 : tries + 1
      if (tries > waits.length) {
        throw new StorageError(`${name}: the download was interrupted (${error}); try again: it resumes where it stopped`)
      }
      await new Promise((resolve) => setTimeout(resolve, waits[Math.max(0, tries - 1)]))
    }
  }
}

/**
 * Return the bytes of complete pieces in the store; the last piece is hashed again, because a power cut can leave it half
 * written.
 * @param {import('./manifest.js').FileSpec} spec
 * @param {import('./store.js').Store} store
 */
async function keptBytes(spec, store) {
  const size = await store.size(spec.sha256)
  if (size > spec.size) return 0
  const pieces = size === spec.size ? Math.ceil(size / PIECE_SIZE) : Math.floor(size / PIECE_SIZE)
  if (pieces === 0) return 0
  const start = (pieces - 1) * PIECE_SIZE
  const end = Math.min(size, pieces * PIECE_SIZE)
  const piece = await (await store.blob(spec.sha256)).slice(start, end).arrayBuffer()
  return (await sha256(piece)) === pieceHash(spec, start) ? end : start
}

/**
 * Read one response to its end; check each piece and append it to the store.
 * @param {string} url
 * @param {string} name
 * @param {import('./manifest.js').FileSpec} spec
 * @param {import('./store.js').Store} store
 * @param {number} kept
 * @param {(bytes: number) => void} onBytes
 * @returns {Promise<number>} bytes that are kept now
 */
async function receive(url, name, spec, store, kept, onBytes) {
  const response = await fetch(url, { headers: kept > 0 ? { Range: `bytes=${kept}-` } : {}, cache: 'no-store' })
  if (response.status >= 500 || response.status === 429) throw new Error(`the server answered ${response.status}`)
  if (!response.ok || !response.body) {
    const answer = `${response.status} ${response.statusText}`
    throw new ArtifactError(`${name}: the server answered ${answer}; check the address`)
  }

  refuseWebPage(response, url)

  // Cut the body into pieces
  let skip = response.status === 206 ? 0 : kept // a server without range requests sends the whole file
  const piece = new Uint8Array(Math.min(PIECE_SIZE, spec.size - kept))
  let filled = 0
  for await (let chunk of readChunks(response.body)) {
    const skipped = Math.min(skip, chunk.length)
    skip -= skipped
    chunk = chunk.subarray(skipped)
    onBytes(chunk.length)
    while (chunk.length > 0) {
      if (kept >= spec.size) throw new ArtifactError(`${name}: expected ${spec.size} bytes, got more; publish the artifact again`)
      const want = Math.min(PIECE_SIZE, spec.size - kept)
      const part = chunk.subarray(0, want - filled)
      piece.set(part, filled)
      filled += part.length
      chunk = chunk.subarray(part.length)
      if (filled < want) continue

      // Check and keep a complete piece
      const bytes = piece.subarray(0, want)
      const expected = pieceHash(spec, kept)
      const found = await sha256(bytes)
      if (found !== expected) {
        throw new ArtifactError(
          `${name}: bytes from ${kept}: expected sha256 ${expected.slice(0, 16)}…, got ${found.slice(0, 16)}…: ` +
            'the file on the server is damaged or of another version; publish the artifact again',
        )
      }
      await store.append(spec.sha256, kept, bytes)
      kept += want
      filled = 0
    }
  }
  if (kept < spec.size) throw new Error(`${kept + filled} of ${spec.size} bytes came`)
  return kept
}

/**
 * Refuse a web page in the place of a file: hosts of single-page apps answer with one where a file is missing.
 * @param {Response} response
 * @param {string} url
 * @throws {ArtifactError} it is one
 */
export function refuseWebPage(response, url) {
  if (!response.headers.get('content-type')?.startsWith('text/html')) return
  throw new ArtifactError(
    `${url}: expected a file of the model, got a web page, as hosts of apps send for files that they lack; check the address, ` +
      'and put the exported folder among the files that the host serves as they are (for Vite and Next.js: public/)',
  )
}

/**
 * Return the text of a body, and never read more of it than `most` bytes.
 * @param {ReadableStream<Uint8Array> | null} body
 * @param {number} most
 * @param {string} name of the file in messages
 * @throws {ArtifactError} it is longer, or not UTF-8
 */
export async function readText(body, most, name) {
  /** @type {Uint8Array[]} */
  const chunks = []
  let size = 0
  for await (const chunk of body ? readChunks(body) : []) {
    size += chunk.length
    if (size > most) throw new ArtifactError(`${name}: expected at most ${most} bytes, found more`)
    chunks.push(chunk)
  }
  const bytes = new Uint8Array(size)
  for (let at = 0, i = 0; i < chunks.length; at += chunks[i++].length) bytes.set(chunks[i], at)
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new ArtifactError(`${name}: not UTF-8; export again`)
  }
}

/**
 * Return the address of an artifact's file; characters of its name that mean something in addresses are escaped.
 * @param {string} folder with a slash at its end
 * @param {string} name
 */
export function addressOf(folder, name) {
  return folder + name.split('/').map(encodeURIComponent).join('/')
}

/**
 * Yield the chunks of a body, and cancel it when the caller stops.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<Uint8Array>}
 */
async function* readChunks(body) {
  const reader = body.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      yield value
    }
  } finally {
    await reader.cancel().catch(() => {})
  }
}

/**
 * Return the hash of the piece at an offset; a file of one piece has the file's hash only.
 * @param {import('./manifest.js').FileSpec} spec
 * @param {number} offset
 */
function pieceHash(spec, offset) {
  return spec.pieces.length > 0 ? spec.pieces[offset / PIECE_SIZE] : spec.sha256
}

/**
 * Return the sha256 of bytes in hexadecimal digits.
 * @param {BufferSource} bytes
 * @returns {Promise<string>}
 */
export async function sha256(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('')
}
