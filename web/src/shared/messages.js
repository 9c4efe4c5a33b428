/**
 * Types of the messages between the page and the worker. Each request has an id and gets one reply or one error; events
 * come in between.
 *
 * @typedef {object} OpenOptions
 * @property {string} [artifactUrl] address of the artifact's folder
 * @property {Map<string, File>} [files] the artifact's files by path, instead of an address
 * @property {'webgpu' | 'wasm'} [device] by default WebGPU, or WebAssembly where that is missing and the model is small
 * @property {string} [precision] by default the first that the device can compute in, of q4f16, q4, q8, fp16, fp32
 * @property {number} [context] decoder positions of 80 ms that attention sees; fewer take less memory
 * @property {boolean} [graphCapture] capture WebGPU calls and replay them, where the adapter can (the default); without it
 *   they take twice as long, and the encoder's window is exact to the frame
 * @property {boolean} [blankGuard] after 16 s without a word, make blank tokens less likely step by step (the default)
 *
 * @typedef {object} StreamOptions
 * @property {number} [delayMs] how long the model listens before it writes; by default the model's own delay
 * @property {boolean} [isFile] the audio is a file: the model's end-of-text token ends the stream, and no warning comes
 *   where transcription is slower than the audio
 *
 * @typedef {object} Inspection the device and precision that run or would run, and the download that they need
 * @property {'webgpu' | 'wasm'} deviceName
 * @property {string} precision
 * @property {string | null} adapter description of the graphics adapter
 * @property {string[]} notes sentences for the user about limitations
 * @property {number} missingBytes bytes still to be downloaded
 * @property {number} totalBytes
 * @property {boolean} selfTested the loaded model wrote the tokens of its certificate; where it was not tested, a note says
 *   why
 * @property {string | null} scope a sentence about the speech that the model is limited to, for models that are
 * @property {number} sampleRate Hz
 * @property {{step: number, longest: number, own: number, trained: number[]}} delaysMs delays that the model can take: the
 *   step between them and their end, the default, and those it was trained with
 *
 * @typedef {{type: 'inspect', options: OpenOptions} | {type: 'open', options: OpenOptions} |
 *   {type: 'start', options: StreamOptions} | {type: 'feed', samples: Float32Array, time: number} | {type: 'finish'} |
 *   {type: 'stop'} | {type: 'remove'}} RequestBody
 * @typedef {RequestBody & {id: number}} Request
 * @typedef {import('./captions.js').Transcript & {text: string}} Transcript
 *
 * @typedef {{type: 'progress', progress: import('../engine/artifact.js').Progress} | {type: 'loading', part: string} |
 *   import('../engine/live.js').LiveEvent} Event
 * @typedef {{type: 'reply', id: number, value: unknown} |
 *   {type: 'error', id: number, error: import('./errors.js').ErrorValues} |
 *   {type: 'event', event: Event}} Answer
 */

export {}
