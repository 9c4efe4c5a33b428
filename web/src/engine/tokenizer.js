/** Token ids to text, from `tekken.json` (tokenizer.py). */

import { ArtifactError } from '../shared/errors.js'

const EMPTY = new Uint8Array(0)

/** The bytes of every text token. */
export class Tokenizer {
  /**
   * @param {string} text of tekken.json
   * @param {import('./manifest.js').Tokens} tokens
   * @throws {ArtifactError} not a Tekken tokenizer
   */
  constructor(text, tokens) {
    try {
      /** @type {{token_bytes: string}[]} */
      const vocab = JSON.parse(text).vocab
      /** @type {string[]} base64, decoded when asked for: most of 130,000 never are */
      this.pieces = vocab.map((entry) => entry.token_bytes)
      atob(this.pieces[0])
    } catch (error) {
      throw new ArtifactError(
        `tekken.json: not a readable Tekken tokenizer (${/** @type {Error} */ (error).message}); export again`,
      )
    }
    this.firstText = tokens.first_text
  }

  /**
   * The token's bytes, none for a special token.
   * @param {number} tokenId
   */
  bytesOf(tokenId) {
    const rank = tokenId - this.firstText
    return rank >= 0 ? Uint8Array.from(atob(this.pieces[rank]), (c) => c.charCodeAt(0)) : EMPTY
  }

  /**
   * Text of a whole transcript, without the space that words begin with.
   * @param {Iterable<number>} tokenIds
   */
  decode(tokenIds) {
    const decoder = new TextPieces(this)
    let text = ''
    for (const tokenId of tokenIds) text += decoder.push(tokenId)
    return (text + decoder.flush()).replace(/^ /, '')
  }
}

/**
 * Bytes of successive tokens to text, as soon as characters are whole: a character may span several tokens with blanks
 * between them.
 */
export class TextPieces {
  /** @param {Tokenizer} tokenizer */
  constructor(tokenizer) {
    this.tokenizer = tokenizer
    this.utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  }

  /**
   * The text that this token completes.
   * @param {number} tokenId
   */
  push(tokenId) {
    return this.utf8.decode(this.tokenizer.bytesOf(tokenId), { stream: true })
  }

  /** A replacement character where the last one was cut off. */
  flush() {
    return this.utf8.decode()
  }
}
