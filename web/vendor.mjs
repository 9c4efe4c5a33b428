/** A script that copies the page's onnxruntime-web files from node_modules to vendor/; `make web` runs it. */

import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises'

const here = new URL('.', import.meta.url)
const dist = new URL('node_modules/onnxruntime-web/', here)
const vendor = new URL('vendor/', here)
const BUILDS = { wasm: 'ort-wasm-simd-threaded', webgpu: 'ort-wasm-simd-threaded.asyncify', jspi: 'ort-wasm-simd-threaded.jspi' }

await rm(vendor, { recursive: true, force: true })
await mkdir(vendor)
for (const [build, binary] of Object.entries(BUILDS)) {
  for (const name of [`ort.${build}.min.mjs`, `${binary}.mjs`, `${binary}.wasm`]) {
    await copyFile(new URL(`dist/${name}`, dist), new URL(name, vendor))
  }
}
await copyFile(new URL('LICENSE.onnxruntime-web', here), new URL('LICENSE', vendor))
const { version } = JSON.parse(await readFile(new URL('package.json', dist), 'utf8'))
await writeFile(new URL('VERSION', vendor), `onnxruntime-web ${version}\n`)
