/** The embedded model's artifact and sample clips, and Python's transcripts of them. */

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { sha256 } from '../src/engine/download.js'

export const WEB = path.join(import.meta.dirname, '..')
export const ARTIFACT = process.env.VOXTRAL_ARTIFACT ?? path.join(WEB, '../assets/tiny-onnx')
export const SAMPLES = path.join(WEB, '../assets/tiny/samples')
export const GOLDEN = path.join(WEB, '../tests/golden')

/**
 * Return the transcripts of the Python runtime on the same artifact and machine, by the name of the clip.
 * @returns {Promise<Record<string, {ids: number[], margins: number[], text: string, segments: any[]}>>}
 */
export async function pythonTranscripts() {
  const file = process.env.VOXTRAL_EXPECTED
  if (!file) throw new Error('VOXTRAL_EXPECTED is not set; run the tests through pytest tests/web')
  return JSON.parse(await readFile(file, 'utf8'))
}

/**
 * Return a certificate with the fields that the self-test reads, as `voxtral-onnx verify` writes it beside the manifest.
 * @param {string} manifest
 * @param {number} [added] number added to every token id, for a self-test that must fail
 */
export async function certificate(manifest, added = 0) {
  const clip = 'command-hibari.wav'
  const { ids, margins } = (await pythonTranscripts())[clip]
  const test = { clip, num_delay_tokens: 6, token_ids: ids.map((id) => id + added), blank_margins: margins }
  return JSON.stringify({ manifest_sha256: await sha256(Buffer.from(manifest)), details: { q4: { self_test: test } } })
}

/**
 * Read a 16-bit mono WAV as samples.
 * @param {string} name
 */
export async function clip(name) {
  const { buffer, byteOffset, byteLength } = await readFile(path.join(SAMPLES, name))
  return Float32Array.from(new Int16Array(buffer.slice(byteOffset + 44, byteOffset + byteLength)), (x) => x / 32768)
}
