/** A test with changed manifests that tests/web/test_manifests.py writes: JavaScript takes and refuses those Python does. */

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { ArtifactError } from '../src/shared/errors.js'
import { Manifest } from '../src/engine/manifest.js'

/** Return the message with which a manifest is refused; undefined where it is taken. @param {string} text */
function refusal(text) {
  try {
    new Manifest(text)
  } catch (error) {
    assert.ok(error instanceof ArtifactError, `${/** @type {Error} */ (error).stack}`)
    return error.message
  }
  return undefined
}

test('manifests are taken and refused as Python does', async () => {
  const file = process.env.VOXTRAL_MANIFESTS
  if (!file) throw new Error('VOXTRAL_MANIFESTS is not set; run the tests through pytest tests/web')
  /** @type {[string, string | null][]} text, and why Python refuses it */
  const judged = JSON.parse(await readFile(file, 'utf8'))
  const different = judged.filter(([text, reason]) => (refusal(text) === undefined) !== (reason === null))
  const [[text, reason]] = [...different, ['', '']]
  assert.equal(different.length, 0, `Python: ${reason}\nJavaScript: ${refusal(text)}\n${text.slice(0, 20000)}`)
})
