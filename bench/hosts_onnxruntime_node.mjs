/**
 * A part of hosts.py: transcribes clips on onnxruntime-node and prints tokens and times as a line of JSON.
 *
 *     node --import ./web/packages.mjs bench/hosts_onnxruntime_node.mjs ARTIFACT PRECISION clip.wav…
 */

import path from 'node:path'

import { env } from 'onnxruntime-node'

import { load, readWav, transcribe } from '../examples/node/transcribe.js'

const [artifact, precision, ...clips] = process.argv.slice(2)
const began = performance.now()
const model = await load(artifact, precision)
const loadSeconds = (performance.now() - began) / 1000
const runs = []
for (const clip of clips) {
  const samples = await readWav(clip, model.manifest.config.audio)
  const [ids, times] = [[], []]
  for await (const { id } of transcribe(model, samples)) {
    ids.push(id)
    times.push(performance.now())
  }
  const steps = times.slice(1).map((time, i) => time - times[i]) // without the prompt
  runs.push({
    clip: path.basename(clip),
    audio_seconds: samples.length / model.manifest.config.audio.sample_rate,
    ids,
    ms_per_token: steps.reduce((sum, step) => sum + step, 0) / steps.length,
    median_ms_per_token: steps.toSorted((a, b) => a - b)[steps.length >> 1],
  })
}
console.log(
  JSON.stringify({
    host: `onnxruntime-node ${env.versions.node ?? env.versions.common}`,
    node: process.version,
    precision,
    load_seconds: loadSeconds,
    peak_memory_bytes: process.resourceUsage().maxRSS * 1024,
    runs,
  }),
)
