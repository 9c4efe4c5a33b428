/** An HTTP server for tests: the page under its policy, an artifact, and faults on demand. */

import { createReadStream, readFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import http from 'node:http'
import path from 'node:path'

const TYPES = /** @type {Record<string, string>} */ ({
  '.html': 'text/html',
  '.css': 'text/css',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
  '.webmanifest': 'application/manifest+json',
})

const PAGE = readFileSync(path.join(import.meta.dirname, '../index.html'), 'utf8')
// A header, as `serve` sends it: workers obey the header of their script and not the page's meta element
const POLICY = /Content-Security-Policy"\s+content="([^"]+)"/.exec(PAGE)?.[1].replaceAll(/\s+/g, ' ') ?? ''

export class TestServer {
  /**
   * @param {Record<string, string>} folders by the path they are served at
   * @param {boolean} [isIsolated] whether pages are isolated from other origins
   */
  constructor(folders, isIsolated = true) {
    this.folders = folders
    this.isolation = isIsolated ? { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' } : {}
    /** @type {{path: string, range: string | undefined}[]} */
    this.requests = []
    /** @type {Map<string, Buffer>} files in memory, by path */
    this.files = new Map()
    /** @type {Map<string, number>} bytes after which the next answer for a path breaks off */
    this.cuts = new Map()
    this.server = http.createServer((request, response) => this.answer(request, response))
  }

  /** Listen on a free port. */
  async listen() {
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', () => resolve(undefined)))
    const { port } = /** @type {import('node:net').AddressInfo} */ (this.server.address())
    this.url = `http://localhost:${port}/`
    return this
  }

  /** Close all connections. */
  close() {
    this.server.closeAllConnections()
    return new Promise((resolve) => this.server.close(resolve))
  }

  /**
   * Answer with a file or the end of it, or break off.
   * @param {http.IncomingMessage} request
   * @param {http.ServerResponse} response
   */
  async answer(request, response) {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost')
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')
    this.requests.push({ path: pathname, range: request.headers.range })
    const start = Number(range?.[1] ?? 0)
    const found = await this.find(pathname)
    if (!found) return response.writeHead(404).end()
    const size = typeof found === 'string' ? (await stat(found)).size : found.length
    response.writeHead(range ? 206 : 200, {
      'content-type': TYPES[path.extname(typeof found === 'string' ? found : pathname)] ?? 'application/octet-stream',
      'content-length': size - start,
      ...this.isolation,
      'accept-ranges': 'bytes',
      ...(typeof found === 'string' ? { 'content-security-policy': POLICY } : {}), // pages in memory run the tests' own scripts
    })

    // Send it
    const cut = this.cuts.get(pathname)
    if (cut !== undefined) {
      this.cuts.delete(pathname)
      const part = typeof found === 'string' ? createReadStream(found, { start, end: start + cut - 1 }) : undefined
      if (part) part.on('end', () => setTimeout(() => response.destroy(), 50)).pipe(response, { end: false })
      else response.write(/** @type {Buffer} */ (found).subarray(start, start + cut), () => setTimeout(() => response.destroy(), 50))
      return
    }
    if (typeof found === 'string') createReadStream(found, { start }).pipe(response)
    else response.end(found.subarray(start))
  }

  /** Return the content or the file of a path. @param {string} pathname */
  async find(pathname) {
    const made = this.files.get(pathname)
    if (made) return made
    for (const [at, folder] of Object.entries(this.folders)) {
      if (!pathname.startsWith(at)) continue
      const file = path.join(folder, pathname.slice(at.length) || 'index.html')
      if (await stat(file).then((s) => s.isFile(), () => false)) return file
    }
    return undefined
  }
}
