import { createTranscriber } from 'voxtral-onnx-web'

const [button, state, captions] = ['button', 'state', 'captions'].map((id) => document.getElementById(id))
const onProgress = ({ received, total }) => (state.textContent = `${Math.round((100 * received) / total)} %`)
let transcriber, captioning
button.onclick = async () => {
  if (captioning) return captioning.stop()
  try {
    transcriber ??= await createTranscriber({ artifactUrl: '/artifact/', onProgress })
    const media = await navigator.mediaDevices.getUserMedia({ audio: true })
    captioning = transcriber.listen(media)
    state.textContent = 'listening'
    for await (const { text } of captioning) captions.append(text)
    for (const track of media.getTracks()) track.stop()
    state.textContent = 'stopped'
  } catch (error) {
    state.textContent = error.message
  }
  captioning = undefined
}
