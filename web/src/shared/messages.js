/**
 * Types of what the page and the worker exchange, which are those of the package's interface too. Each request has an id and
 * gets one reply or one error; events come in between.
 *
 * @typedef {object} OpenOptions
 * @property {string | URL} [artifactUrl] address of the artifact's folder
 * @property {Map<string, File>} [files] the artifact's files by path, instead of an address
 * @property {'webgpu' | 'wasm'} [device] by default WebGPU, or WebAssembly where that is missing or emulated and the model is small
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
 * @property {'webgpu' | 'wasm'} deviceName what computes
 * @property {string} precision of the weights and activations
 * @property {string | null} adapter description of the graphics adapter
 * @property {string[]} notes sentences for the user about limitations
 * @property {number} missingBytes bytes still to be downloaded
 * @property {number} totalBytes bytes of all files
 * @property {boolean} selfTested the loaded model wrote the tokens of its certificate; where it was not tested, a note says
 *   why
 * @property {string | null} scope a sentence about the speech that the model is limited to, for models that are
 * @property {number} sampleRate Hz
 * @property {{step: number, longest: number, own: number, trained: number[]}} delaysMs delays that the model can take: the
 *   step between them and their end, the default, and those it was trained with
 *
 * @typedef {object} Progress of the download
 * @property {number} received bytes
 * @property {number} total bytes
 * @property {number | undefined} secondsLeft estimate, once the rate of the download is known
 *
 * @typedef {object} Token one generated token, which stands for 80 ms of audio
 * @property {number} index from 0, without the prompt
 * @property {number} tokenId of the model's vocabulary
 * @property {string} text the characters that this token completes; empty for blanks and inside a character
 * @property {number} end seconds of audio up to the end of the token's 80 ms, without the delay
 * @property {number} logprob log-probability
 * @property {number} blankMargin logit of the blank token minus the best other logit
 *
 * @typedef {object} Segment the text between two of the model's word markers: often one word, sometimes more
 * @property {number} id from 0
 * @property {number} start seconds
 * @property {number} end seconds: the position of the marker, which stands for the end of the word
 * @property {string} text as the tokens spell it, with its leading space
 * @property {number[]} token_ids ids of its tokens
 * @property {number} avg_logprob mean log-probability of the segment's text tokens
 *
 * @typedef {object} Cue the segments of one caption
 * @property {number} start seconds
 * @property {number} end seconds
 * @property {string} text its lines, as one
 * @property {{word: string, start: number, end: number, probability: number}[]} words its segments
 *
 * @typedef {object} Transcript the keys and values of the JSON that is saved, and that `voxtral-onnx transcribe` writes
 * @property {string} text the whole of it
 * @property {Omit<Segment, 'token_ids'>[]} segments words, or a few, with times
 * @property {Cue[]} cues the same as captions
 * @property {number} duration seconds
 * @property {number[]} token_ids the generated ids, blanks included
 * @property {Record<string, unknown>} info how it was made
 *
 * @typedef {object} StreamMetrics measures of how well a stream keeps up
 * @property {number} captured seconds of audio that arrived
 * @property {number} backlog seconds of audio that wait
 * @property {number} rtf real-time factor: seconds of computing for a second of audio
 * @property {number} latencyP50 milliseconds from the arrival of the last sample a token may use to its text
 * @property {number} latencyP95 the same, of the slowest 5 % of tokens
 *
 * @typedef {{type: 'inspect', options: OpenOptions} | {type: 'open', options: OpenOptions} |
 *   {type: 'start', options: StreamOptions} | {type: 'feed', samples: Float32Array, time: number} | {type: 'finish'} |
 *   {type: 'stop'} | {type: 'remove'}} RequestBody
 * @typedef {RequestBody & {id: number}} Request
 *
 * @typedef {{type: 'token', token: Token} | {type: 'segment', segment: Segment} | {type: 'silence', start: number} |
 *   {type: 'warning', text: string} | {type: 'metrics', metrics: StreamMetrics}} StreamEvent
 * @typedef {{type: 'progress', progress: Progress} | {type: 'loading', part: string} | StreamEvent} Event
 * @typedef {{type: 'reply', id: number, value: unknown} |
 *   {type: 'error', id: number, error: import('./errors.js').ErrorValues} |
 *   {type: 'event', event: Event}} Answer
 */

export {}
