/**
 * The self-test of a loaded model: it transcribes a clip and must write the tokens that its certificate is sure of. A driver
 * that computes wrongly fails it (doctor.py).
 */

import { openAudio } from '../shared/audio.js'
import { sha256 } from './download.js'
import { DeviceError } from '../shared/errors.js'
import { DELAY, FieldError, RELATIVE_NAME, SHA256, TOKEN_ID, list, mapOf, number, optional, record, text } from './fields.js'

export const CERTIFICATE = 'certificate.json' // beside the manifest
const SURE = 1.0 // blank margin in logits, above which rounding alone never changes the token

const CERTIFICATE_FIELDS = record({
  manifest_sha256: SHA256,
  details: mapOf(
    text(1, 64),
    record({
      self_test: optional(
        record(
          { clip: RELATIVE_NAME, num_delay_tokens: DELAY, token_ids: list(TOKEN_ID), blank_margins: list(number(-1e9, 1e9)) },
          ({ token_ids: ids, blank_margins: margins }) => (ids.length === margins.length ? undefined : 'a margin a token'),
        ),
        undefined,
      ),
    }),
  ),
})

/**
 * @typedef {{clip: string, num_delay_tokens: number, token_ids: number[], blank_margins: number[]}} Expected tokens of a clip,
 *   with their margins over or under the blank token
 */

/**
 * Return the tokens that one precision must write; undefined where the certificate is of another artifact, or of this one
 * before it changed.
 * @param {string} certificate its text
 * @param {import('./manifest.js').Manifest} manifest
 * @param {string} precision
 * @returns {Promise<Expected | undefined>}
 */
export async function readSelfTest(certificate, manifest, precision) {
  let values
  try {
    values = CERTIFICATE_FIELDS(JSON.parse(certificate), '')
  } catch (error) {
    if (error instanceof FieldError || error instanceof SyntaxError) return undefined
    throw error
  }
  const own = await sha256(new TextEncoder().encode(manifest.text))
  return values.manifest_sha256 === own ? values.details[precision]?.self_test : undefined
}

/**
 * Transcribe the clip and compare its tokens with the certificate's.
 * @param {import('./transcriber.js').Transcriber} transcriber
 * @param {Expected} expected
 * @param {File} clip a WAV
 * @throws {DeviceError} a token that the certificate is sure of differs, or their number does
 */
export async function selfTest(transcriber, expected, clip) {
  const { msPerToken, config } = transcriber.manifest
  const { blocks } = await openAudio(clip, config.audio.sample_rate)
  const stream = transcriber.stream({ delayMs: msPerToken * expected.num_delay_tokens })
  const found = /** @type {number[]} */ ([])
  try {
    for await (const samples of blocks) for await (const { tokenId } of stream.feed(samples)) found.push(tokenId)
    for await (const { tokenId } of stream.finish()) found.push(tokenId)
  } finally {
    stream.release()
  }
  const sure = expected.token_ids.map((id, i) => ({ id, i })).filter(({ i }) => Math.abs(expected.blank_margins[i]) > SURE)
  const wrong = sure.filter(({ id, i }) => found[i] !== id)
  if (wrong.length > 0 || found.length !== expected.token_ids.length) {
    const at = ((wrong[0]?.i ?? sure.length) * msPerToken) / 1000
    throw new DeviceError(
      `the self-test failed: ${wrong.length} of the ${sure.length} tokens that the model's certificate is sure of differ on ` +
        `this device, the first at ${at.toFixed(2)} s; update the browser and the graphics driver, or use another computer`,
    )
  }
}
