/**
 * Where the page finds onnxruntime-web: in vendor/, which `make web` fills. The npm package has npm/ort.js in the place of
 * this file: bundlers find the same builds among its dependencies.
 */

/**
 * @typedef {object} Build one build of onnxruntime-web
 * @property {() => Promise<import('./device.js').Ort>} load return its JavaScript
 * @property {URL} mjs address of the script that starts its WebAssembly, in threads too
 * @property {URL} wasm
 */

// Bundlers, and readers of a page's policy, take addresses from literals alone
/** @type {Record<'wasm' | 'jspi' | 'asyncify', Build>} */
export const BUILDS = {
  wasm: {
    load: () => import(/** @type {any} */ ('../../vendor/ort.wasm.min.mjs')),
    mjs: new URL('../../vendor/ort-wasm-simd-threaded.mjs', import.meta.url),
    wasm: new URL('../../vendor/ort-wasm-simd-threaded.wasm', import.meta.url),
  },
  jspi: {
    load: () => import(/** @type {any} */ ('../../vendor/ort.jspi.min.mjs')),
    mjs: new URL('../../vendor/ort-wasm-simd-threaded.jspi.mjs', import.meta.url),
    wasm: new URL('../../vendor/ort-wasm-simd-threaded.jspi.wasm', import.meta.url),
  },
  asyncify: {
    load: () => import(/** @type {any} */ ('../../vendor/ort.webgpu.min.mjs')),
    mjs: new URL('../../vendor/ort-wasm-simd-threaded.asyncify.mjs', import.meta.url),
    wasm: new URL('../../vendor/ort-wasm-simd-threaded.asyncify.wasm', import.meta.url),
  },
}
