/** The tokenizer: token ids to text, by the vocabulary of `tekken.json` (tokenizer.py). */

import { ArtifactError } from '../shared/errors.js'
import { list, record, text } from './fields.js'

const BASE64 = text(0, 1 << 16, /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/, 'base64')
const TEKKEN = record({ vocab: list(record({ token_bytes: BASE64 }), 1 << 24) })
const EMPTY = new Uint8Array(0)

/** The vocabulary: the bytes of every text token. */
export class Tokenizer {
  /**
   * @param {string} content text of tekken.json
   * @param {import('./manifest.js').Tokens} tokens
   * @throws {ArtifactError} it is not a Tekken tokenizer
   */
  constructor(content, tokens) {
    try {
      /** @type {{vocab: {token_bytes: string}[]}} */
      const { vocab } = TEKKEN(JSON.parse(content), '')
      /** @type {string[]} base64, decoded on demand: most of the 130,000 never are */
      this.pieces = vocab.map((entry) => entry.token_bytes)
    } catch (error) {
      throw new ArtifactError(
        `tekken.json: not a readable Tekken tokenizer (${/** @type {Error} */ (error).message}); export again`,
      )
    }
    this.firstText = tokens.first_text
  }

  /**
   * Return a token's bytes, none for a special token.
   * @param {number} tokenId
   */
  bytesOf(tokenId) {
    const rank = tokenId - this.firstText
    if (rank < 0) return EMPTY
    if (rank >= this.pieces.length) throw new ArtifactError(`tekken.json: no token ${tokenId}; export again`)
    return Uint8Array.from(atob(this.pieces[rank]), (c) => c.charCodeAt(0))
  }

  /**
   * Return the text of a whole transcript, without the space before its first word.
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
 * A streaming decoder of tokens' bytes to text: a character may span several tokens, with blanks between them, and comes
 * out when it is complete.
 */
export class TextPieces {
  /** @param {Tokenizer} tokenizer */
  constructor(tokenizer) {
    this.tokenizer = tokenizer
    this.utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  }

  /**
   * Take a token and return the characters that it completes.
   * @param {number} tokenId
   */
  push(tokenId) {
    return this.utf8.decode(this.tokenizer.bytesOf(tokenId), { stream: true })
  }

  /** Return a replacement character where the last character is incomplete. */
  flush() {
    return this.utf8.decode()
  }
}
