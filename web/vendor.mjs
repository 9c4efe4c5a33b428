/**
 * A script that copies the page's files of onnxruntime-web from node_modules to vendor/; `make web` runs it, and the vendored
 * form of the npm package is made with it.
 */

import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const BUILDS = { wasm: 'ort-wasm-simd-threaded', webgpu: 'ort-wasm-simd-threaded.asyncify', jspi: 'ort-wasm-simd-threaded.jspi' }

/**
 * Fill a folder with the three builds, their licence and their version.
 * @param {URL} folder with a slash at its end
 */
export async function copyOnnxruntime(folder) {
  const dist = new URL('.', import.meta.resolve('onnxruntime-web/ort-wasm-simd-threaded.wasm'))
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true })
  for (const [build, binary] of Object.entries(BUILDS)) {
    for (const name of [`ort.${build}.min.mjs`, `${binary}.mjs`, `${binary}.wasm`]) {
      await copyFile(new URL(name, dist), new URL(name, folder))
    }
  }
  await copyFile(new URL('LICENSE.onnxruntime-web', import.meta.url), new URL('LICENSE', folder))
  const { version } = JSON.parse(await readFile(new URL('../package.json', dist), 'utf8'))
  await writeFile(new URL('VERSION', folder), `onnxruntime-web ${version}\n`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await copyOnnxruntime(new URL('vendor/', import.meta.url))
