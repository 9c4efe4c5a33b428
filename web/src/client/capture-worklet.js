/** The audio worklet that posts a microphone's samples in blocks of about 20 ms. */

const BLOCKS = 8 // render quanta of 128 samples in one message

/** A worklet node that does nothing but collect and post samples: the audio thread must never be late. */
class Capture extends AudioWorkletProcessor {
  block = new Float32Array(128 * BLOCKS)
  filled = 0

  /**
   * Collect one render quantum; post the block when it is full and keep the node alive.
   * @param {Float32Array[][]} inputs [inputs][channels][128]
   */
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
