/** A script that writes the npm package to build/npm; `make npm` runs it. */

import { execFileSync } from 'node:child_process'
import { copyFile, cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'

const here = import.meta.dirname
const root = path.join(here, '..')
const target = path.join(root, 'build/npm')
await rm(target, { recursive: true, force: true })

// The sources, less those of the project's own page; `ort.js` in both of its forms
for (const room of ['client', 'engine', 'shared']) {
  await cp(path.join(here, 'src', room), path.join(target, 'src', room), { recursive: true })
}
await copyFile(path.join(here, 'npm/ort.js'), path.join(target, 'src/engine/ort.js'))
await mkdir(path.join(target, 'npm'))
await copyFile(path.join(here, 'src/engine/ort.js'), path.join(target, 'npm/vendored-ort.js'))
await copyFile(path.join(here, 'npm/vendored.mjs'), path.join(target, 'npm/vendored.mjs'))
const tsc = path.join(here, 'node_modules/typescript/bin/tsc')
execFileSync(process.execPath, [tsc, '-p', path.join(here, 'tsconfig.npm.json'), '--outDir', target], { stdio: 'inherit' })

// The clip of the self-test, the script for the vendored form, licences
await mkdir(path.join(target, 'samples'))
for (const name of ['command-hibari.wav', 'NOTICE.txt']) {
  await copyFile(path.join(root, 'assets/tiny/samples', name), path.join(target, 'samples', name))
}
for (const name of ['npm/README.md', 'vendor.mjs', 'LICENSE.onnxruntime-web', '../LICENSE']) {
  await copyFile(path.join(here, name), path.join(target, path.basename(name)))
}
const { devDependencies, ...manifest } = JSON.parse(await readFile(path.join(here, 'package.json'), 'utf8'))
await writeFile(path.join(target, 'package.json'), `${JSON.stringify(manifest, undefined, 2)}\n`)
