/**
 * A part of hosts.py: transcribes clips with transformers.js and prints tokens and times as a line of JSON.
 *
 *     node --import ./web/packages.mjs bench/hosts_transformers_js.mjs ARTIFACT DTYPE clip.wav…
 */

import path from 'node:path'

import { env } from '@huggingface/transformers'

import { load, readWav, transcribe } from '../examples/transformers_js.mjs'

const [artifact, dtype, ...clips] = process.argv.slice(2)
env.allowRemoteModels = false
const began = performance.now()
const loaded = await load(artifact, dtype)
const loadSeconds = (performance.now() - began) / 1000
const rate = loaded.processor.feature_extractor.config.sampling_rate
const runs = []
for (const clip of clips) {
  const samples = await readWav(clip, rate)
  const times = /** @type {number[]} */ ([])
  const streamer = { put: () => times.push(performance.now()), end: () => {} }
  const ids = await transcribe(loaded, samples, { streamer })
  const steps = times.slice(2).map((time, i) => time - times[i + 1]) // without the prompt and its token
  runs.push({
    clip: path.basename(clip),
    audio_seconds: samples.length / rate,
    ids,
    ms_per_token: steps.reduce((sum, step) => sum + step, 0) / steps.length,
    median_ms_per_token: steps.toSorted((a, b) => a - b)[steps.length >> 1],
  })
}
console.log(
  JSON.stringify({
    host: `transformers.js ${env.version}`,
    node: process.version,
    dtype,
    load_seconds: loadSeconds,
    peak_memory_bytes: process.resourceUsage().maxRSS * 1024,
    runs,
  }),
)
