/** What the package voxtral-onnx-web exports. */

export { TranscriberClient, createTranscriber } from './transcriber.js'
export { FORMATS, render } from '../shared/captions.js'
export { ArtifactError, AudioError, DeviceError, StorageError, UsageError } from '../shared/errors.js'
