/** A program of someone who writes strict TypeScript; package.test.js compiles it against the packed package. */

import { FORMATS, StorageError, UsageError, createTranscriber, render } from 'voxtral-onnx-web'
import type { Segment, TranscriberClient, Transcript, Transcription } from 'voxtral-onnx-web'
import { VoxtralCaptions } from 'voxtral-onnx-web/element'

const stops = new AbortController()

export async function load(): Promise<TranscriberClient> {
  try {
    return await createTranscriber({
      artifactUrl: new URL('https://example.org/artifact/'),
      device: 'webgpu',
      onProgress: ({ received, total, secondsLeft }) => console.log(received / total, secondsLeft?.toFixed()),
      signal: stops.signal,
    })
  } catch (error) {
    if (error instanceof StorageError) console.error(error.message)
    throw error
  }
}

export async function caption(transcriber: TranscriberClient, media: MediaStream): Promise<string> {
  transcriber.addEventListener('token', ({ detail }) => console.log(detail.text.length, detail.end.toFixed(2)))
  transcriber.addEventListener('warning', (event) => alert(event.detail.toUpperCase()))
  const captions: Transcription = transcriber.listen(media, { delayMs: 480, onLevel: (level) => console.log(level.toFixed(2)) })
  for await (const { start, end, text, avg_logprob } of captions) console.log(start + end, text.trim(), avg_logprob)
  return render(await captions, 'srt')
}

export async function subtitles(transcriber: TranscriberClient, file: File): Promise<Record<string, string>> {
  const transcript: Transcript = await transcriber.transcribe(file, { signal: AbortSignal.timeout(60_000) })
  const words: string[] = transcript.cues.flatMap((cue) => cue.words.map(({ word }) => word))
  const first: Omit<Segment, 'token_ids'> | undefined = transcript.segments[0]
  console.log(words, first?.id, transcript.token_ids.length, transcript.duration)
  return Object.fromEntries(FORMATS.map((format) => [format, render(transcript, format)]))
}

export function show(): VoxtralCaptions {
  const element = new VoxtralCaptions()
  element.setAttribute('artifact', '/artifact/')
  element.listen().catch((error: unknown) => console.error(error instanceof UsageError))
  return element
}

// @ts-expect-error a device that there is not
void createTranscriber({ artifactUrl: '/artifact/', device: 'gpu' })
// @ts-expect-error no model
void createTranscriber()
