/**
 * A Node.js import hook that lets scripts in other folders import the packages installed in web/:
 *
 *     node --import ./web/packages.mjs examples/….mjs
 *
 * PACKAGES=FOLDER takes the packages of another folder, the one that holds `node_modules`.
 */

import { register } from 'node:module'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const parent = pathToFileURL(path.join(process.env.PACKAGES ?? import.meta.dirname, 'package.json')).href
const hook = `export function resolve(name, context, next) {
  const isOurs = /^@?[a-z]/.test(name) && !name.includes(':') && !context.parentURL?.includes('/node_modules/')
  return next(name, isOurs ? { ...context, parentURL: ${JSON.stringify(parent)} } : context)
}`
register(`data:text/javascript,${encodeURIComponent(hook)}`)
