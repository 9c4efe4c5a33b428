/** Grouping of tokens into segments with times (segments.py). */

const LONGEST_WORD_SECONDS = 0.8 // mistral-common's OFFLINE_STREAMING_BUFFER_TOKENS, ten tokens
const LAST_SECONDS = 0.08 // of the audio, into which all times behind it are brought: a token's

/**
 * @typedef {import('../shared/messages.js').Segment} Segment
 * @typedef {import('../shared/messages.js').Token} Token
 */

/** A grouper of one stream: a segment is complete at the next marker after its text, or at the end of the stream. */
export class Grouper {
  /** @param {import('./manifest.js').Tokens} ids */
  constructor(ids) {
    this.ids = ids
    this.count = 0
    this.previousEnd = 0
    /** @type {number | undefined} */
    this.markerEnd = undefined
    /** @type {Token[]} */
    this.texts = []
  }

  /**
   * Take a token and return the segment that it completes, if any.
   * @param {Token} token
   * @returns {Segment | undefined}
   */
  push(token) {
    if (token.tokenId === this.ids.streaming_word) {
      const segment = this.end()
      this.markerEnd = token.end
      return segment
    }
    if (token.tokenId >= this.ids.first_text || token.text) this.texts.push(token)
    return undefined
  }

  /**
   * Return the segment that is still open, if any, as complete.
   * @returns {Segment | undefined}
   */
  end() {
    const texts = this.texts
    if (texts.length === 0) return undefined
    const end = this.markerEnd ?? texts[0].end
    const segment = {
      id: this.count,
      start: Math.max(this.previousEnd, end - LONGEST_WORD_SECONDS), // the model marks no starts
      end,
      text: texts.map((token) => token.text).join(''),
      token_ids: texts.map((token) => token.tokenId),
      avg_logprob: texts.reduce((sum, token) => sum + token.logprob, 0) / texts.length,
    }
    this.count += 1
    this.previousEnd = end
    this.texts = []
    return segment
  }
}

/**
 * Yield all segments of a whole transcript.
 * @param {Iterable<Token>} tokens
 * @param {import('./manifest.js').Tokens} ids
 * @returns {Generator<Segment>}
 */
export function* group(tokens, ids) {
  const grouper = new Grouper(ids)
  for (const token of tokens) {
    const segment = grouper.push(token)
    if (segment) yield segment
  }
  const last = grouper.end()
  if (last) yield last
}

/**
 * Return a segment that ends with the audio at the latest, and lasts: times from its last 80 ms on are brought into these.
 * @param {Segment} segment
 * @param {number} duration seconds
 * @returns {Segment}
 */
export function within(segment, duration) {
  const room = Math.min(LAST_SECONDS, duration)
  const bring = (/** @type {number} */ seconds) => {
    const beyond = seconds - (duration - room)
    return beyond > 0 ? duration - room + (room * beyond) / (room + beyond) : seconds
  }
  return { ...segment, start: bring(segment.start), end: bring(segment.end) }
}
