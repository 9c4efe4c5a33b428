/** The rule for model addresses in links to the page: they come from strangers. */

import { UsageError } from '../shared/errors.js'

/**
 * Return the absolute address of the artifact that a link names. It must be of the page's own origin or of one that the site
 * allows, because anyone can make such a link and a model decides what is written.
 * @param {string} asked address in the link, absolute or relative to the page
 * @param {string} page the page's own address
 * @param {string} allowed origins separated by spaces, such as `https://example.org` or `https://*.example.org`
 * @returns {string}
 * @throws {UsageError} another origin, another scheme than http(s), or an address with a password
 */
export function artifactAddress(asked, page, allowed) {
  const url = URL.canParse(asked, page) ? new URL(asked, page) : undefined
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password) {
    throw new UsageError("the link's model address is not an http or https address, or holds a password; ask whoever made the link")
  }
  const { origin } = url
  if (origin !== new URL(page).origin && !allowed.split(/\s+/).some((pattern) => pattern && matches(pattern, url))) {
    throw new UsageError(
      `the link asks for a model from ${origin}, but this page loads models from its own site only; if you trust that address, ` +
        `start the page with: voxtral-onnx serve --allow-artifacts ${origin}`,
    )
  }
  return url.href
}

/**
 * Return whether an address is of an origin.
 * @param {string} pattern an origin; `*.` stands for any subdomains, as in a content security policy
 * @param {URL} url
 */
function matches(pattern, { protocol, host, origin }) {
  const [scheme, rest] = pattern.split('://*')
  return rest === undefined ? origin === pattern : protocol === `${scheme}:` && host.endsWith(rest)
}
