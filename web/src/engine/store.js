/**
 * Files kept in the browser by the sha256 of their content, so that versions share what they have in common and one never
 * overwrites another. In the origin private file system, or in Cache Storage where that is missing. Runs in a worker.
 */

import { StorageError } from '../shared/errors.js'

/**
 * @typedef {{createSyncAccessHandle: () => Promise<SyncHandle>}} Locking
 * @typedef {{write: (bytes: Uint8Array, at: {at: number}) => number, truncate: (size: number) => void, flush: () => void,
 *   close: () => void}} SyncHandle
 *
 * @typedef {object} Store
 * @property {string} name
 * @property {(bytes: number) => Promise<void>} requireSpace refuse what does not fit before any of it is downloaded
 * @property {(sha256: string) => Promise<number>} size bytes kept of a file
 * @property {(sha256: string, offset: number, bytes: Uint8Array) => Promise<void>} append write behind the first `offset`
 *   bytes and drop what was there
 * @property {(sha256: string) => Promise<Blob>} blob the file, on disk until it is read
 * @property {(sha256: string) => Promise<void>} remove
 * @property {() => Promise<string[]>} list hashes of all files
 * @property {(name: string) => Promise<string | undefined>} readRecord a small text
 * @property {(name: string, text: string) => Promise<void>} writeRecord
 * @property {() => Promise<string[]>} listRecords
 * @property {() => Promise<void>} clear remove everything
 */

const ROOT = 'voxtral-onnx'
const FREE_SPACE = 'free disk space or delete other sites’ data, then reload'

/**
 * The browser's store.
 * @returns {Promise<Store>}
 * @throws {StorageError} it has none
 */
export async function openStore() {
  const hasHandles = 'FileSystemFileHandle' in globalThis && 'createSyncAccessHandle' in FileSystemFileHandle.prototype
  if (hasHandles && navigator.storage?.getDirectory) {
    try {
      const root = await (await navigator.storage.getDirectory()).getDirectoryHandle(ROOT, { create: true })
      return new FileStore(root)
    } catch (error) {
      if (!('caches' in globalThis)) throw storageError('cannot be opened', error)
    }
  }
  if ('caches' in globalThis) return new CacheStore(await caches.open(ROOT))
  throw new StorageError('this browser keeps no files for pages that are not secure; open the page over https or localhost')
}

/** @param {number} bytes */
export function megabytes(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.ceil(bytes / 1e6)} MB`
}

/** @implements {Store} */
class FileStore {
  /** @param {FileSystemDirectoryHandle} root */
  constructor(root) {
    this.root = root
    this.name = 'origin private file system'
  }

  /**
   * Browsers tell pages less than they know of the disk, so a file of that size is made and removed again.
   * @type {Store['requireSpace']}
   */
  async requireSpace(bytes) {
    await requireQuota(bytes)
    const handle = /** @type {any} */ (await this.root.getFileHandle('space', { create: true }))
    const file = await /** @type {Locking} */ (handle).createSyncAccessHandle()
    try {
      file.truncate(bytes)
    } catch {
      throw new StorageError(`the model needs ${megabytes(bytes)} more disk space than the browser lets this page keep; ${FREE_SPACE}`)
    } finally {
      file.close()
      await this.root.removeEntry('space')
    }
  }

  /** @type {Store['size']} */
  async size(sha256) {
    const handle = await this.handle('files', sha256)
    return handle ? (await handle.getFile()).size : 0
  }

  /** @type {Store['append']} */
  async append(sha256, offset, bytes) {
    const files = await this.root.getDirectoryHandle('files', { create: true })
    const handle = /** @type {any} */ (await files.getFileHandle(sha256, { create: true }))
    let file
    try {
      file = await /** @type {Locking} */ (handle).createSyncAccessHandle()
    } catch (error) {
      throw storageError('is being written by another tab; close it', error)
    }
    try {
      file.truncate(offset)
      const written = file.write(bytes, { at: offset })
      file.flush()
      if (written !== bytes.length) throw new Error(`${written} of ${bytes.length} bytes written`)
    } catch (error) {
      file.truncate(offset)
      throw storageError('is full; free disk space, then try again: what is here is kept', error)
    } finally {
      file.close()
    }
  }

  /** @type {Store['blob']} */
  async blob(sha256) {
    const handle = await this.handle('files', sha256)
    if (!handle) throw storageError('has lost a file; reload to download it again', sha256)
    return handle.getFile()
  }

  /** @type {Store['remove']} */
  async remove(sha256) {
    await (await this.root.getDirectoryHandle('files', { create: true })).removeEntry(sha256)
  }

  /** @type {Store['list']} */
  list() {
    return this.names('files')
  }

  /** @type {Store['readRecord']} */
  async readRecord(name) {
    const handle = await this.handle('records', name)
    return handle && (await (await handle.getFile()).text())
  }

  /** @type {Store['writeRecord']} */
  async writeRecord(name, text) {
    const records = await this.root.getDirectoryHandle('records', { create: true })
    const file = await (await records.getFileHandle(name, { create: true })).createWritable() // replaces when closed
    await file.write(text)
    await file.close()
  }

  /** @type {Store['listRecords']} */
  listRecords() {
    return this.names('records')
  }

  async clear() {
    for (const folder of ['records', 'files']) {
      for (const name of await this.names(folder)) {
        await (await this.root.getDirectoryHandle(folder)).removeEntry(name)
      }
    }
  }

  /**
   * @param {string} folder
   * @param {string} name
   */
  async handle(folder, name) {
    try {
      return await (await this.root.getDirectoryHandle(folder, { create: true })).getFileHandle(name)
    } catch (error) {
      if (error instanceof DOMException && error.name === 'NotFoundError') return undefined
      throw storageError('cannot be read', error)
    }
  }

  /** @param {string} folder */
  async names(folder) {
    const names = []
    for await (const name of (await this.root.getDirectoryHandle(folder, { create: true })).keys()) names.push(name)
    return names
  }
}

/**
 * Each piece is an entry of its own, and a file the Blob of its pieces.
 * @implements {Store}
 */
class CacheStore {
  /** @param {Cache} cache */
  constructor(cache) {
    this.cache = cache
    this.name = 'Cache Storage'
    this.base = `${location.origin}/${ROOT}`
  }

  /** @type {Store['requireSpace']} */
  requireSpace(bytes) {
    return requireQuota(bytes)
  }

  /** @type {Store['size']} */
  async size(sha256) {
    return (await this.blob(sha256)).size
  }

  /** @type {Store['append']} */
  async append(sha256, offset, bytes) {
    let start = 0
    for (const url of await this.urls(`files/${sha256}/`)) {
      if (start >= offset) await this.cache.delete(url)
      start += (await (await this.cache.match(url))?.blob())?.size ?? 0
    }
    try {
      await this.cache.put(`${this.base}/files/${sha256}/${String(offset).padStart(12, '0')}`, new Response(bytes.slice()))
    } catch (error) {
      throw storageError('is full; free disk space, then try again: what is here is kept', error)
    }
  }

  /** @type {Store['blob']} */
  async blob(sha256) {
    const urls = await this.urls(`files/${sha256}/`)
    const responses = await Promise.all(urls.map((url) => this.cache.match(url)))
    return new Blob(await Promise.all(responses.map((response) => /** @type {Response} */ (response).blob())))
  }

  /** @type {Store['remove']} */
  async remove(sha256) {
    for (const url of await this.urls(`files/${sha256}/`)) await this.cache.delete(url)
  }

  /** @type {Store['list']} */
  async list() {
    return [...new Set((await this.urls('files/')).map((url) => url.split('/').at(-2) ?? ''))]
  }

  /** @type {Store['readRecord']} */
  async readRecord(name) {
    return (await this.cache.match(`${this.base}/records/${name}`))?.text()
  }

  /** @type {Store['writeRecord']} */
  async writeRecord(name, text) {
    await this.cache.put(`${this.base}/records/${name}`, new Response(text))
  }

  /** @type {Store['listRecords']} */
  async listRecords() {
    return (await this.urls('records/')).map((url) => url.split('/').at(-1) ?? '')
  }

  async clear() {
    for (const { url } of await this.cache.keys()) await this.cache.delete(url)
  }

  /** @param {string} below */
  async urls(below) {
    const urls = (await this.cache.keys()).map(({ url }) => url)
    return urls.filter((url) => url.startsWith(`${this.base}/${below}`)).sort()
  }
}

/**
 * Refuse what is more than the browser says that there is.
 * @param {number} bytes
 * @throws {StorageError}
 */
async function requireQuota(bytes) {
  const { quota = Infinity, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {}
  const free = Math.max(0, quota - usage)
  if (bytes > free) {
    const lets = `the browser lets this page keep ${megabytes(free)} more`
    throw new StorageError(`the model needs ${megabytes(bytes)}, ${lets}; ${FREE_SPACE}`)
  }
}

/**
 * @param {string} what
 * @param {unknown} cause
 */
function storageError(what, cause) {
  return new StorageError(`the browser's storage ${what} (${cause instanceof Error ? cause.message : cause})`)
}
