/** The script of minimal.html: a page that transcribes a file with the fewest lines, to copy from. */

import { createTranscriber } from '../client/index.js'

const file = /** @type {HTMLInputElement} */ (document.querySelector('#file'))
const [state, text] = /** @type {HTMLElement[]} */ (['#state', '#text'].map((id) => document.querySelector(id)))
/** @type {import('../client/index.js').TranscriberClient | undefined} */
let transcriber

file.addEventListener('change', async () => {
  file.disabled = true // one file after the other
  text.textContent = ''
  try {
    transcriber ??= await createTranscriber({
      artifactUrl: 'artifact/',
      onProgress: ({ received, total }) => (state.textContent = `${Math.round((100 * received) / total)} %`),
    })
    const transcription = transcriber.transcribe(/** @type {FileList} */ (file.files)[0])
    for await (const segment of transcription) text.textContent += segment.text
    text.textContent = (await transcription).text
    state.textContent = 'done'
  } catch (error) {
    state.textContent = String(error)
  }
  file.disabled = false
})
