/**
 * The browser's store of model files, by the sha256 of their content: versions share equal files, and none overwrites
 * another's. It is in the origin private file system, or in Cache Storage where that is missing, and is used in a worker.
 */

import { StorageError } from '../shared/errors.js'

/**
 * @typedef {{createSyncAccessHandle: () => Promise<SyncHandle>}} Locking
 * @typedef {{write: (bytes: Uint8Array, at: {at: number}) => number, truncate: (size: number) => void, flush: () => void,
 *   close: () => void}} SyncHandle
 *
 * @typedef {object} Store
 * @property {string} name
 * @property {(bytes: number) => Promise<void>} requireSpace throw where so many bytes do not fit
 * @property {(sha256: string) => Promise<number>} size return the bytes that are kept of a file
 * @property {(sha256: string, offset: number, bytes: Uint8Array) => Promise<void>} append write after the first `offset`
 *   bytes and drop what was there
 * @property {(sha256: string) => Promise<Blob>} blob return a file, which stays on disk until it is read
 * @property {(sha256: string) => Promise<void>} remove delete a file
 * @property {() => Promise<string[]>} list return the hashes of all files
 * @property {(name: string) => Promise<string | undefined>} readRecord return a small text that was written
 * @property {(name: string, text: string) => Promise<void>} writeRecord write a small text
 * @property {() => Promise<string[]>} listRecords return the names of all texts
 * @property {() => Promise<void>} clear delete everything
 */

const ROOT = 'voxtral-onnx'
const FREE_SPACE = 'free disk space or delete other sites’ data, then reload'

/**
 * Open the browser's store.
 * @returns {Promise<Store>}
 * @throws {StorageError} the browser has none for this page
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

/**
 * Return a size in words, in MB or GB.
 * @param {number} bytes
 */
export function megabytes(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.ceil(bytes / 1e6)} MB`
}

/**
 * A store in the origin private file system.
 * @implements {Store}
 */
class FileStore {
  /** @param {FileSystemDirectoryHandle} root */
  constructor(root) {
    this.root = root
    this.name = 'origin private file system'
  }

  /**
   * Check the quota, and make and remove a file of that size: browsers do not tell pages how full the disk is.
   * @type {Store['requireSpace']}
   */
  async requireSpace(bytes) {
    await requireQuota(bytes)
    const handle = /** @type {any} */ (await this.root.getFileHandle('space', { create: true }))
    const file = await /** @type {Locking} */ (handle).createSyncAccessHandle()
    try {
      file.truncate(bytes)
    } catch {
      throw new StorageError(`the model needs ${megabytes(bytes)} of disk space, more than the browser gives this page; ${FREE_SPACE}`)
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
      throw storageError('is being written by another tab; close that tab', error)
    }
    try {
      file.truncate(offset)
      const written = file.write(bytes, { at: offset })
      file.flush()
      if (written !== bytes.length) throw new Error(`${written} of ${bytes.length} bytes written`)
    } catch (error) {
      file.truncate(offset)
      throw storageError('is full; free disk space, then try again: the download resumes where it stopped', error)
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

  /** @type {Store['clear']} */
  async clear() {
    for (const folder of ['records', 'files']) {
      for (const name of await this.names(folder)) {
        await (await this.root.getDirectoryHandle(folder)).removeEntry(name)
      }
    }
  }

  /**
   * Return a file of a folder, undefined where there is none.
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

  /**
   * Return the names of a folder's files.
   * @param {string} folder
   */
  async names(folder) {
    const names = []
    for await (const name of (await this.root.getDirectoryHandle(folder, { create: true })).keys()) names.push(name)
    return names
  }
}

/**
 * A store in Cache Storage: each piece is an entry of its own, and a file is the Blob of its pieces.
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
      throw storageError('is full; free disk space, then try again: the download resumes where it stopped', error)
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

  /** @type {Store['clear']} */
  async clear() {
    for (const { url } of await this.cache.keys()) await this.cache.delete(url)
  }

  /**
   * Return the addresses of the entries below a path, sorted.
   * @param {string} below
   */
  async urls(below) {
    const urls = (await this.cache.keys()).map(({ url }) => url)
    return urls.filter((url) => url.startsWith(`${this.base}/${below}`)).sort()
  }
}

/**
 * Check a size against the quota that the browser states.
 * @param {number} bytes
 * @throws {StorageError} it is more than the quota leaves
 */
async function requireQuota(bytes) {
  const { quota = Infinity, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {}
  const free = Math.max(0, quota - usage)
  if (bytes > free) {
    const left = `but the browser gives this page ${megabytes(free)} only`
    throw new StorageError(`the model needs ${megabytes(bytes)} of disk space, ${left}; ${FREE_SPACE}`)
  }
}

/**
 * Return an error of the store.
 * @param {string} what
 * @param {unknown} cause
 */
function storageError(what, cause) {
  return new StorageError(`the browser's storage ${what} (${cause instanceof Error ? cause.message : cause})`)
}
