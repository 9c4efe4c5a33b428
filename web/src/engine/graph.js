/**
 * Edits of ONNX files in the browser, with as much of a protobuf reader and writer as they take
 * (onnx.proto3, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
 */

const MODEL = { graph: 7 }
const GRAPH = { node: 1 }
const NODE = { opType: 4, attribute: 5 }
const ATTRIBUTE = { name: 1 }

/**
 * Return a model whose attention nodes have no window and so see every row up to `seqlens_k`: onnxruntime-web 1.30 ignores
 * the window in captured calls (newer ones do not, https://github.com/microsoft/onnxruntime/pull/32462), so the buffer must
 * hold the window's rows and no others.
 * @param {Uint8Array} model
 */
export function withoutWindow(model) {
  const attention = (/** @type {Uint8Array} */ node) =>
    rewrite(node, (field, content) =>
      field === NODE.attribute && text(content, ATTRIBUTE.name) === 'local_window_size' ? undefined : content,
    )
  const graph = (/** @type {Uint8Array} */ message) =>
    rewrite(message, (field, content) =>
      field === GRAPH.node && text(content, NODE.opType) === 'GroupQueryAttention' ? attention(content) : content,
    )
  return rewrite(model, (field, content) => (field === MODEL.graph ? graph(content) : content))
}

/**
 * Return a message with its nested fields changed; where `change` returns undefined, a field is dropped.
 * @param {Uint8Array} message
 * @param {(field: number, content: Uint8Array) => Uint8Array | undefined} change
 */
function rewrite(message, change) {
  const parts = []
  for (const { field, bytes, content } of fields(message)) {
    if (!content) {
      parts.push(bytes)
      continue
    }
    const changed = change(field, content)
    if (changed) parts.push(changed === content ? bytes : bytesField(field, changed))
  }
  return join(parts)
}

/**
 * Return a text field of a message, undefined where there is none.
 * @param {Uint8Array} message
 * @param {number} wanted
 */
function text(message, wanted) {
  for (const { field, content } of fields(message)) if (field === wanted && content) return new TextDecoder().decode(content)
  return undefined
}

/**
 * Yield the fields of a message: all bytes of each, and the content of those with a length.
 * @param {Uint8Array} message
 * @returns {Generator<{field: number, bytes: Uint8Array, content?: Uint8Array}>}
 */
function* fields(message) {
  for (let at = 0; at < message.length; ) {
    const start = at
    const [key, afterKey] = readNumber(message, at)
    at = afterKey
    let content
    if ((key & 7) === 2) {
      const [length, begin] = readNumber(message, at)
      at = begin + length
      content = message.subarray(begin, at)
    } else {
      at = (key & 7) === 0 ? readNumber(message, at)[1] : at + ((key & 7) === 1 ? 8 : 4)
    }
    yield { field: key >>> 3, bytes: message.subarray(start, at), content }
  }
}

/**
 * Read a variable-length number and return it with its end; numbers above 2^53 lose digits, which lengths never have.
 * @param {Uint8Array} bytes
 * @param {number} at
 * @returns {[number, number]}
 */
function readNumber(bytes, at) {
  let value = 0
  for (let scale = 1; ; scale *= 128) {
    const byte = bytes[at++]
    value += (byte & 127) * scale
    if (byte < 128) return [value, at]
  }
}

/**
 * Encode a variable-length number.
 * @param {number} value
 */
function number(value) {
  const bytes = []
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128)
  return Uint8Array.from([...bytes, value])
}

/**
 * Encode a field that holds bytes or a message.
 * @param {number} field
 * @param {Uint8Array} content
 */
const bytesField = (field, content) => join([number((field << 3) | 2), number(content.length), content])

/**
 * Concatenate bytes.
 * @param {Uint8Array[]} parts
 */
function join(parts) {
  const joined = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    joined.set(part, at)
    at += part.length
  }
  return joined
}
