/** Which address a link may make the page load a model from. */

import { UsageError } from '../shared/errors.js'

/**
 * An artifact's address as a link names it: one of the page's own origin, or of those that the site allows. Anyone can make
 * such a link, and a model decides what is written.
 * @param {string} asked relative to the page, or whole
 * @param {string} page the page's own address
 * @param {string} allowed origins with spaces between, as `https://example.org` or `https://*.example.org`
 * @returns {string}
 * @throws {UsageError} another origin, or no address of a server
 */
export function artifactAddress(asked, page, allowed) {
  const url = URL.canParse(asked, page) ? new URL(asked, page) : undefined
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password) {
    throw new UsageError('the link names a model by something else than an http or https address without a password; ask who made it')
  }
  const { origin } = url
  if (origin !== new URL(page).origin && !allowed.split(/\s+/).some((pattern) => pattern && matches(pattern, url))) {
    throw new UsageError(
      `the link asks for a model from ${origin}, and this page loads models from its own site; if you trust that one, start ` +
        `this page with: voxtral-onnx serve --allow-artifacts ${origin}`,
    )
  }
  return url.href
}

/**
 * @param {string} pattern an origin; `*.` stands for any names before the rest, as in a content security policy
 * @param {URL} url
 */
function matches(pattern, { protocol, host, origin }) {
  const [scheme, rest] = pattern.split('://*')
  return rest === undefined ? origin === pattern : protocol === `${scheme}:` && host.endsWith(rest)
}
