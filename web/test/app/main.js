/** An app of someone who installed the package; package.test.js builds it with Vite and with webpack. */

import { createTranscriber } from 'voxtral-onnx-web'

const [state, text, input] = ['#state', '#text', '#file'].map((id) => document.querySelector(id))
const transcriber = await createTranscriber({ artifactUrl: '/artifact/' })
state.textContent = 'ready'
input.addEventListener('change', async () => {
  const samples = new Float32Array(await input.files[0].arrayBuffer())
  await transcriber.start({ isFile: true })
  await transcriber.feed(samples)
  text.textContent = (await transcriber.finish()).text
})
