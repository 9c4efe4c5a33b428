/** The script of minimal.html: a page that transcribes a file with the fewest lines, to copy from. */

import { createTranscriber } from '../client/transcriber.js'
import { openAudio } from '../shared/audio.js'

const file = /** @type {HTMLInputElement} */ (document.querySelector('#file'))
const [state, text] = /** @type {HTMLElement[]} */ (['#state', '#text'].map((id) => document.querySelector(id)))
/** @type {import('../client/transcriber.js').TranscriberClient | undefined} */
let transcriber

file.addEventListener('change', async () => {
  file.disabled = true // one file after the other
  text.textContent = ''
  try {
    transcriber ??= await load()
    const { blocks } = await openAudio(/** @type {FileList} */ (file.files)[0], transcriber.sampleRate)
    await transcriber.start({ isFile: true })
    for await (const samples of blocks) await transcriber.feed(samples)
    text.textContent = (await transcriber.finish()).text
    state.textContent = 'done'
  } catch (error) {
    state.textContent = String(error)
  }
  file.disabled = false
})

/** Load the model, and show words as they are decoded. */
async function load() {
  const loaded = await createTranscriber({
    artifactUrl: 'artifact/',
    onProgress: ({ received, total }) => (state.textContent = `${Math.round((100 * received) / total)} %`),
  })
  loaded.addEventListener('token', (event) => (text.textContent += /** @type {CustomEvent} */ (event).detail.text))
  return loaded
}
