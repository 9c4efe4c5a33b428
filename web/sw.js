/**
 * The page's service worker. It keeps the page's own files for offline visits, and adds the cross-origin isolation headers
 * that threads and exact GPU timers need on static hosts that cannot set headers. The engine keeps the model (store.js).
 */

const CACHE = 'voxtral-onnx page'
const worker = /** @type {any} */ (self)
const FILES = /^(|index\.html|minimal\.html|page\.css|(src\/[^/]+(\/graphs)?|vendor|samples)\/[^/]+)$/
// prettier-ignore
const SOURCES = [
  'client/capture-worklet', 'client/capture', 'client/element', 'client/index', 'client/transcriber',
  'client/transcription', 'engine/artifact', 'engine/cache', 'engine/decoder', 'engine/device', 'engine/download',
  'engine/encoder', 'engine/fields', 'engine/graph-capture', 'engine/graph', 'engine/live', 'engine/manifest',
  'engine/ort', 'engine/segments', 'engine/select-backend', 'engine/self-test', 'engine/session', 'engine/store',
  'engine/stream', 'engine/tokenizer', 'engine/transcriber', 'engine/worker', 'page/artifact-address', 'page/microphone',
  'page/minimal', 'page/page', 'page/transcript', 'shared/audio', 'shared/captions', 'shared/errors', 'shared/float16',
  'shared/messages', 'shared/resample', 'shared/text-width',
].map((name) => `${name}.js`)
const GRAPHS = ['engine/graphs/copy_float16.onnx', 'engine/graphs/copy_float32.onnx']

worker.addEventListener('install', (/** @type {any} */ event) => event.waitUntil(install()))
worker.addEventListener('activate', (/** @type {any} */ event) => event.waitUntil(worker.clients.claim()))
worker.addEventListener('fetch', (/** @type {any} */ event) => {
  const { method, url } = /** @type {Request} */ (event.request)
  const scope = worker.registration.scope
  const { origin, pathname, href } = new URL(url)
  if (method === 'GET' && href.startsWith(scope) && FILES.test((origin + pathname).slice(scope.length))) {
    event.respondWith(answer(event.request))
  }
})

/** Fetch and keep the page's own files: the first visit loaded them before this worker could see it. */
async function install() {
  const cache = await caches.open(CACHE)
  await cache.addAll(['./', 'page.css', 'samples/command-hibari.wav', ...[...SOURCES, ...GRAPHS].map((name) => `src/${name}`)])
  await worker.skipWaiting()
}

/**
 * Answer from the network and keep a copy; offline, answer with the copy.
 * @param {Request} request
 */
async function answer(request) {
  const cache = await caches.open(CACHE)
  try {
    const response = isolated(await fetch(request))
    if (response.ok) await cache.put(request, response.clone())
    return response
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true })
    if (kept) return kept
    throw error
  }
}

/**
 * Return the response with the headers that make a page cross-origin isolated.
 * @param {Response} response
 */
function isolated(response) {
  const headers = new Headers(response.headers)
  headers.set('Cross-Origin-Opener-Policy', 'same-origin')
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp')
  const { status, statusText } = response
  return new Response(response.body, { status, statusText, headers })
}
