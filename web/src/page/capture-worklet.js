/** Posts what a microphone gives, in blocks of about 20 ms; the rest is done outside of the audio thread. */

const BLOCKS = 8 // of 128 samples

class Capture extends AudioWorkletProcessor {
  block = new Float32Array(128 * BLOCKS)
  filled = 0

  /** @param {Float32Array[][]} inputs */
  process([[samples]]) {
    if (!samples) return true // nothing is connected yet
    this.block.set(samples, this.filled)
    this.filled += samples.length
    if (this.filled >= this.block.length) {
      this.port.postMessage(this.block, [this.block.buffer])
      this.block = new Float32Array(128 * BLOCKS)
      this.filled = 0
    }
    return true
  }
}

registerProcessor('capture', Capture)
