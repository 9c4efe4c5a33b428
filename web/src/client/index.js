/** What the package voxtral-onnx-web exports; `voxtral-onnx-web/element` is element.js. */

export { createTranscriber, TranscriberClient } from './transcriber.js'
export { FORMATS, render } from '../shared/captions.js'
export { ArtifactError, AudioError, DeviceError, StorageError, UsageError } from '../shared/errors.js'

/**
 * @typedef {import('./transcription.js').Transcription} Transcription
 * @typedef {import('./transcriber.js').CreateOptions} CreateOptions
 * @typedef {import('./transcriber.js').ListenOptions} ListenOptions
 * @typedef {import('./transcriber.js').TranscribeOptions} TranscribeOptions
 * @typedef {import('./transcriber.js').TranscriberEvents} TranscriberEvents
 * @typedef {import('../shared/audio.js').Recording} Recording
 * @typedef {import('../shared/messages.js').Cue} Cue
 * @typedef {import('../shared/messages.js').Inspection} Inspection
 * @typedef {import('../shared/messages.js').OpenOptions} OpenOptions
 * @typedef {import('../shared/messages.js').Progress} Progress
 * @typedef {import('../shared/messages.js').Segment} Segment
 * @typedef {import('../shared/messages.js').StreamMetrics} StreamMetrics
 * @typedef {import('../shared/messages.js').StreamOptions} StreamOptions
 * @typedef {import('../shared/messages.js').Token} Token
 * @typedef {import('../shared/messages.js').Transcript} Transcript
 */
