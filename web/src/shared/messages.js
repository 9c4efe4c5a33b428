/**
 * What the page and the worker say to each other. Each request has an id and gets one reply or one error; events come in
 * between.
 *
 * @typedef {object} OpenOptions
 * @property {string} [artifactUrl] of the artifact's folder
 * @property {Map<string, File>} [files] instead of an address: the artifact's files by path
 * @property {'webgpu' | 'wasm'} [device] without one WebGPU, or WebAssembly for a small artifact
 * @property {string} [precision] without one the first that the device computes in
 * @property {number} [context] decoder positions of 80 ms that attention sees; fewer take less memory
 * @property {boolean} [graphCapture] capture WebGPU's calls and replay them, where the adapter can; without it they take
 *   twice as long, and the encoder's window is exact to the frame
 * @property {boolean} [blankGuard] after 16 s without a word, make blanks less likely step by step
 *
 * @typedef {object} StreamOptions
 * @property {number} [delayMs] how long the model listens before it writes
 * @property {boolean} [isFile] the model's end of text ends it, and nobody waits for it
 *
 * @typedef {object} Inspection what would run, and what that would download
 * @property {'webgpu' | 'wasm'} deviceName
 * @property {string} precision
 * @property {string | null} adapter
 * @property {string[]} notes what runs otherwise than one would wish
 * @property {number} missingBytes to download
 * @property {number} totalBytes
 * @property {boolean} selfTested the loaded model wrote what its certificate says; where it was not asked, a note says why
 * @property {string | null} scope what the model is for, where that must be said
 * @property {number} sampleRate
 * @property {{step: number, longest: number, own: number, trained: number[]}} delaysMs
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
