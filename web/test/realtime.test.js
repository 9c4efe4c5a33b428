/** A page's script that speaks to `serve` by OpenAI's Realtime API, in a headless Chromium. */

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { launch, removeProfiles } from './browser.js'
import { clip } from './samples.js'

const SERVER = process.env.VOXTRAL_SERVER ?? 'http://127.0.0.1:8000'
const KEY = process.env.VOXTRAL_KEY ?? ''
const CLIP = 'command-hibari.wav'

after(removeProfiles)

/**
 * Speak a clip as a page's script does, and return the subprotocol, the types of all events and the text.
 * @param {{address: string, key: string, samples: number[]}} given samples at 16 kHz, 16 bits
 * @returns {Promise<{protocol: string, types: string[], deltas: string, transcript: string}>}
 */
function speak({ address, key, samples }) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(address, ['realtime', `openai-insecure-api-key.${key}`])
    /** @type {string[]} */
    const types = []
    let deltas = ''
    /** @param {Record<string, unknown>} message */
    const send = (message) => socket.send(JSON.stringify(message))
    socket.onopen = () => {
      const format = { type: 'audio/pcm', rate: 16000 }
      send({ type: 'session.update', session: { type: 'transcription', audio: { input: { format } } } })
      for (let first = 0; first < samples.length; first += 800) {
        const bytes = new Uint8Array(new Int16Array(samples.slice(first, first + 800)).buffer)
        send({ type: 'input_audio_buffer.append', audio: btoa(String.fromCharCode(...bytes)) })
      }
      send({ type: 'input_audio_buffer.commit' })
    }
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data)
      types.push(event.type)
      if (event.type === 'error') reject(new Error(event.error.message))
      if (event.type.endsWith('.delta')) deltas += event.delta
      if (event.type.endsWith('.completed')) {
        resolve({ protocol: socket.protocol, types, deltas, transcript: event.transcript })
        socket.close()
      }
    }
    socket.onclose = ({ code }) => reject(new Error(`closed: ${code}`))
  })
}

test('a page transcribes with a key, which is not echoed', async () => {
  const browser = await launch([])
  try {
    const page = await browser.newPage()
    await page.goto(`${SERVER}/health`) // the server's own origin
    const samples = [...(await clip(CLIP))].map((sample) => sample * 32768)
    const given = { address: `${SERVER.replace('http', 'ws')}/v1/realtime?intent=transcription`, key: KEY, samples }
    const found = await page.evaluate(speak, given)
    assert.equal(found.protocol, 'realtime')
    assert.equal(found.types[0], 'session.created')
    assert.equal(found.transcript, process.env.VOXTRAL_TEXT)
    assert.equal(found.deltas, found.transcript)
    const wrong = { ...given, key: `not-${KEY}` }
    await assert.rejects(page.evaluate(speak, wrong), /the API key is not one of this server's/)
  } finally {
    await browser.close()
  }
})
