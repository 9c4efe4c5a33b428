/** The two places that an artifact is loaded from: a server, with a copy kept in the browser, or a folder of the user's. */

import { addressOf, download, readText, refuseWebPage, sha256 } from './download.js'
import { ArtifactError, StorageError } from '../shared/errors.js'
import { FILE_NAME, MOST_BYTES, Manifest } from './manifest.js'
import { CERTIFICATE, readSelfTest } from './self-test.js'

/**
 * @typedef {import('../shared/messages.js').Progress} Progress
 *
 * @typedef {object} Artifact
 * @property {Manifest} manifest
 * @property {(precision: string) => Promise<number>} missing return the bytes that a precision still has to download
 * @property {(precision: string, onProgress: (progress: Progress) => void) => Promise<void>} fetch download those
 * @property {import('./session.js').ReadFile} readFile
 * @property {(precision: string) => Promise<import('./self-test.js').Expected | undefined>} selfTest return the tokens that
 *   a precision must write, from the artifact's certificate; undefined where there is none
 */

/**
 * An artifact on a server, kept in the browser's store.
 * @implements {Artifact}
 */
export class RemoteArtifact {
  /**
   * @param {string} url address of the folder, with a slash at its end
   * @param {string} record name of the manifest's copy in the store
   * @param {import('./store.js').Store} store
   * @param {Manifest} manifest
   */
  constructor(url, record, store, manifest) {
    this.url = url
    this.record = record
    this.store = store
    this.manifest = manifest
  }

  /**
   * Open the newest version that can be had: the server's, or offline the one that is kept.
   * @param {string} address of the folder
   * @param {import('./store.js').Store} store
   * @returns {Promise<RemoteArtifact>}
   * @throws {ArtifactError} the server has no artifact at this address
   * @throws {StorageError} the server cannot be reached, and nothing is kept
   */
  static async open(address, store) {
    const url = address.endsWith('/') ? address : `${address}/`
    const record = await sha256(new TextEncoder().encode(url))
    let response
    try {
      response = await fetch(url + FILE_NAME, { cache: 'no-cache' })
    } catch (error) {
      const kept = await store.readRecord(record)
      if (kept) return new RemoteArtifact(url, record, store, new Manifest(kept))
      throw new StorageError(
        `${url}: cannot be reached (${error}); connect to the network for the first visit, and let a host of another ` +
          'origin send Access-Control-Allow-Origin',
      )
    }
    if (!response.ok) {
      throw new ArtifactError(`${url + FILE_NAME}: the server answered ${response.status}; check the artifact's address`)
    }
    refuseWebPage(response, url + FILE_NAME)
    const text = await readText(response.body, MOST_BYTES.manifest, FILE_NAME)
    return new RemoteArtifact(url, record, store, new Manifest(text))
  }

  /** @type {Artifact['missing']} */
  async missing(precision) {
    let bytes = 0
    for (const { size, sha256 } of this.unique(precision)) bytes += size - Math.min(size, await this.store.size(sha256))
    return bytes
  }

  /**
   * Download what is not kept; then record this version as complete and delete files that no version needs.
   * @type {Artifact['fetch']}
   */
  async fetch(precision, onProgress) {
    const specs = this.manifest.filesOf(precision)
    const isWhole = (await this.store.readRecord(this.record)) === this.manifest.text
    if (isWhole && (await this.missing(precision)) === 0) return
    await this.store.requireSpace(await this.missing(precision))
    await navigator.locks.request('voxtral-onnx download', async () => {
      const meter = new ProgressMeter([...specs.values()].reduce((sum, { size }) => sum + size, 0), onProgress)
      for (const [name, spec] of specs) {
        await download(addressOf(this.url, name), name, spec, this.store, (bytes, isNew) => meter.add(bytes, isNew))
      }
      await this.store.writeRecord(this.record, this.manifest.text)
      await this.dropUnused()
    })
  }

  /** @type {Artifact['readFile']} */
  readFile = async (path) => this.store.blob(this.manifest.files[path].sha256)

  /** @type {Artifact['selfTest']} */
  async selfTest(precision) {
    const record = `${this.record}-certificate`
    let text
    try {
      const response = await fetch(this.url + CERTIFICATE, { cache: 'no-cache' })
      if (response.ok) {
        text = await readText(response.body, MOST_BYTES.certificate, CERTIFICATE)
        await this.store.writeRecord(record, text)
      }
    } catch (error) {
      if (error instanceof ArtifactError) throw error
      text = await this.store.readRecord(record) // offline: the copy of the last visit
    }
    return text ? readSelfTest(text, this.manifest, precision) : undefined
  }

  /**
   * Return the files of a precision, files of the same content once.
   * @param {string} precision
   */
  unique(precision) {
    return new Map([...this.manifest.filesOf(precision).values()].map((spec) => [spec.sha256, spec])).values()
  }

  /** Delete the files in the store that no kept manifest names. */
  async dropUnused() {
    const used = new Set()
    for (const name of await this.store.listRecords()) {
      for (const sha256 of hashesIn((await this.store.readRecord(name)) ?? '')) used.add(sha256)
    }
    for (const sha256 of await this.store.list()) if (!used.has(sha256)) await this.store.remove(sha256)
  }
}

/**
 * Return the hashes of all files that a kept record names: a manifest of any format, or a certificate, which names none.
 * @param {string} text
 * @returns {unknown[]}
 */
function hashesIn(text) {
  try {
    return Object.values(JSON.parse(text).files ?? {}).map((file) => file?.sha256)
  } catch {
    return []
  }
}

/**
 * An artifact in a folder that the user chose or dropped; nothing of it is copied.
 * @implements {Artifact}
 */
export class FolderArtifact {
  /**
   * @param {Map<string, File>} files by path below the artifact
   * @param {Manifest} manifest
   */
  constructor(files, manifest) {
    this.files = files
    this.manifest = manifest
  }

  /**
   * Find the artifact among the files of a folder.
   * @param {Map<string, File>} files by path; folders around the artifact do not matter
   * @returns {Promise<FolderArtifact>}
   * @throws {ArtifactError} the folder holds no manifest, or not a valid one
   */
  static async open(files) {
    const path = [...files.keys()].find((path) => path.split('/').at(-1) === FILE_NAME)
    if (path === undefined) {
      throw new ArtifactError(`the folder holds no ${FILE_NAME}, so it is no exported model; run: voxtral-onnx export SOURCE`)
    }
    const prefix = path.slice(0, -FILE_NAME.length)
    const below = [...files].filter(([path]) => path.startsWith(prefix))
    const found = new Map(below.map(([path, file]) => [path.slice(prefix.length), file]))
    const file = /** @type {File} */ (files.get(path))
    return new FolderArtifact(found, new Manifest(await readText(file.stream(), MOST_BYTES.manifest, path)))
  }

  /** @type {Artifact['missing']} */
  async missing() {
    return 0
  }

  /**
   * Check that the files of a precision are there, in their sizes.
   * @type {Artifact['fetch']}
   */
  async fetch(precision) {
    for (const [name, { size }] of this.manifest.filesOf(precision)) {
      const found = this.files.get(name)?.size
      if (found !== size) {
        throw new ArtifactError(`${name}: expected ${size} bytes, got ${found ?? 'no file'}; choose the whole folder that export wrote`)
      }
    }
  }

  /** @type {Artifact['readFile']} */
  readFile = async (path) => /** @type {File} */ (this.files.get(path))

  /** @type {Artifact['selfTest']} */
  async selfTest(precision) {
    const file = this.files.get(CERTIFICATE)
    if (!file) return undefined
    return readSelfTest(await readText(file.stream(), MOST_BYTES.certificate, CERTIFICATE), this.manifest, precision)
  }
}

const REPORT_EVERY = 100 // milliseconds

/** A count of received bytes, reported at most ten times a second. */
class ProgressMeter {
  /**
   * @param {number} total
   * @param {(progress: Progress) => void} onProgress
   */
  constructor(total, onProgress) {
    this.total = total
    this.onProgress = onProgress
    this.received = 0
    this.began = performance.now()
    this.reported = 0
    this.loaded = 0 // bytes that came over the network: the rate counts these alone
  }

  /**
   * Count bytes, and report where it is time.
   * @param {number} bytes
   * @param {boolean} isNew whether they came over the network
   */
  add(bytes, isNew) {
    const now = performance.now()
    this.received += bytes
    if (isNew) this.loaded += bytes
    if (now - this.reported < REPORT_EVERY && this.received < this.total) return
    this.reported = now
    const seconds = (now - this.began) / 1000
    const rate = seconds > 0.5 ? this.loaded / seconds : 0
    const secondsLeft = rate > 0 ? (this.total - this.received) / rate : undefined
    this.onProgress({ received: this.received, total: this.total, secondsLeft })
  }
}
