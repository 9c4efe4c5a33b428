/** The embedded model's artifact and sample clips, and what Python makes of them. */

import { readFile } from 'node:fs/promises'
import path from 'node:path'

export const WEB = path.join(import.meta.dirname, '..')
export const ARTIFACT = process.env.VOXTRAL_ARTIFACT ?? path.join(WEB, '../assets/tiny-onnx')
export const SAMPLES = path.join(WEB, '../assets/tiny/samples')
export const GOLDEN = path.join(WEB, '../tests/golden')

/**
 * Clips by name: ids, texts and margins of the Python runtime on the same artifact and machine.
 * @returns {Promise<Record<string, {ids: number[], margins: number[], text: string, segments: any[]}>>}
 */
export async function pythonTranscripts() {
  const file = process.env.VOXTRAL_EXPECTED
  if (!file) throw new Error('VOXTRAL_EXPECTED is not set; run the tests through pytest tests/web')
  return JSON.parse(await readFile(file, 'utf8'))
}

/**
 * A 16-bit mono WAV as samples.
 * @param {string} name
 */
export async function clip(name) {
  const { buffer, byteOffset, byteLength } = await readFile(path.join(SAMPLES, name))
  return Float32Array.from(new Int16Array(buffer.slice(byteOffset + 44, byteOffset + byteLength)), (x) => x / 32768)
}
