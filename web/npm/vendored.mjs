#!/usr/bin/env node
/**
 * A script that writes this package's vendored form, for pages that no bundler builds:
 *
 *     npx voxtral-onnx-web public/voxtral
 *
 * It holds the sources as they are and onnxruntime-web beside them, 58 MB, of which a browser downloads one build.
 */

import { copyFile, cp, readdir } from 'node:fs/promises'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { copyOnnxruntime } from '../vendor.mjs'

const [folder] = process.argv.slice(2)
if (!folder || folder.startsWith('-')) {
  console.error('expected a folder to write, as in: npx voxtral-onnx-web public/voxtral')
  process.exit(2)
}
if ((await readdir(folder).catch(() => [])).length > 0) {
  console.error(`${folder}: expected a new or empty folder, found files in it; remove it or choose another folder`)
  process.exit(9)
}
const root = path.join(import.meta.dirname, '..')
const filter = (/** @type {string} */ file) => !file.endsWith('.d.ts')
for (const name of ['src', 'samples', 'LICENSE']) await cp(path.join(root, name), path.join(folder, name), { recursive: true, filter })
await copyFile(path.join(root, 'npm/vendored-ort.js'), path.join(folder, 'src/engine/ort.js'))
await copyOnnxruntime(pathToFileURL(path.join(path.resolve(folder), 'vendor/')))
console.log(`${folder}: written; pages import ${path.posix.join('.', path.basename(folder), 'src/client/index.js')}`)
