/**
 * Where bundlers find onnxruntime-web: among this package's dependencies. The vendored form of the package has another file
 * in the place of this one, whose addresses a plain page can resolve.
 */

// Static imports: workers of one file, which some bundlers make, cannot load further scripts
import * as asyncify from 'onnxruntime-web/webgpu'
import * as jspi from 'onnxruntime-web/jspi'
import * as wasm from 'onnxruntime-web/wasm'

export const BUILDS = {
  wasm: {
    load: async () => wasm,
    mjs: new URL('onnxruntime-web/ort-wasm-simd-threaded.mjs', import.meta.url),
    wasm: new URL('onnxruntime-web/ort-wasm-simd-threaded.wasm', import.meta.url),
  },
  jspi: {
    load: async () => jspi,
    mjs: new URL('onnxruntime-web/ort-wasm-simd-threaded.jspi.mjs', import.meta.url),
    wasm: new URL('onnxruntime-web/ort-wasm-simd-threaded.jspi.wasm', import.meta.url),
  },
  asyncify: {
    load: async () => asyncify,
    mjs: new URL('onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs', import.meta.url),
    wasm: new URL('onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm', import.meta.url),
  },
}
