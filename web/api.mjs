/**
 * A script that writes docs/web/api.md, the reference of the npm package, from the comments in src/client and src/shared;
 * `node api.mjs --check` says whether the page is up to date.
 */

import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import ts from 'typescript'

const HEAD = `# The package’s interface

What \`voxtral-onnx-web\` exports. This page is written from the comments of the code by \`node web/api.mjs\`;
[embed.md](embed.md) shows how it is used.
`
const here = import.meta.dirname
const page = path.join(here, '../docs/web/api.md')
const { config } = ts.readConfigFile(path.join(here, 'tsconfig.json'), ts.sys.readFile)
const { options } = ts.parseJsonConfigFileContent(config, ts.sys, here)
const entries = ['src/client/index.js', 'src/client/element.js'].map((name) => path.join(here, name))
const program = ts.createProgram(entries, options)
const checker = program.getTypeChecker()

/**
 * Return what a comment says, in one line.
 * @param {ts.Symbol} symbol
 */
const comment = (symbol) => ts.displayPartsToString(symbol.getDocumentationComment(checker)).replaceAll(/\s+/g, ' ').trim()

/**
 * Return a type as the reference writes it.
 * @param {ts.Type} type
 */
const written = (type) => checker.typeToString(type, undefined, ts.TypeFormatFlags.NoTruncation).replaceAll('"', "'")

/**
 * Return a table of the properties or parameters, where one of them has something to say.
 * @param {readonly ts.Symbol[]} symbols
 */
function table(symbols) {
  const rows = symbols.map((symbol) => {
    const isOptional = symbol.flags & ts.SymbolFlags.Optional
    const type = written(checker.getTypeOfSymbol(symbol)).replace(/ \| undefined$/, isOptional ? '' : '$&')
    return `| \`${symbol.name}${isOptional ? '?' : ''}\` | \`${type.replaceAll('|', '\\|')}\` | ${comment(symbol)} |`
  })
  return rows.length > 0 ? ['', '| name | type | |', '| --- | --- | --- |', ...rows] : []
}

/**
 * Return the lines about a function or a method.
 * @param {ts.Symbol} symbol
 * @param {string} head
 */
function callable(symbol, head) {
  const [signature] = checker.getTypeOfSymbol(symbol).getCallSignatures()
  const parameters = signature.parameters.map((parameter) => {
    const declaration = /** @type {ts.ParameterDeclaration | undefined} */ (parameter.valueDeclaration)
    const isOptional = declaration?.initializer || (declaration && checker.isOptionalParameter(declaration))
    const name = parameter.name.startsWith('__') ? 'options' : parameter.name // written as a pattern
    return `${name}${isOptional ? '?' : ''}: ${written(checker.getNonNullableType(checker.getTypeOfSymbol(parameter)))}`
  })
  const said = symbol.getJsDocTags(checker).flatMap(({ name, text }) => {
    const [first, ...rest] = ts.displayPartsToString(text).replaceAll(/\s+/g, ' ').trim().split(' ')
    return name === 'param' && rest.length > 0 ? [`\`${first.replace(/^\[|\]$/g, '')}\`: ${rest.join(' ').replace(/^- /, '')}.`] : []
  })
  const call = `${symbol.name}(${parameters.join(', ')}): ${written(signature.getReturnType())}`
  return ['', head, '', '```ts', call, '```', '', [comment(symbol), ...said].filter(Boolean).join(' ')]
}

/**
 * Return the lines about an export.
 * @param {ts.Symbol} exported
 */
function section(exported) {
  const named = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
  const { name } = exported
  const declared = checker.getDeclaredTypeOfSymbol(named)
  const symbol = declared.isClass() ? declared.symbol : named // types may be other names of classes
  if (symbol.flags & ts.SymbolFlags.Class) {
    const members = declared.getProperties().filter((member) => isOwn(member, symbol) && /^\w+$/.test(member.name) && comment(member))
    const methods = members.filter((member) => member.flags & ts.SymbolFlags.Method && !/^__|Callback$/.test(member.name))
    const fields = members.filter((member) => member.flags & ts.SymbolFlags.Property)
    return ['', `## ${name}`, '', comment(symbol), ...table(fields), ...methods.flatMap((method) => callable(method, `### ${method.name}`))]
  }
  if (symbol.flags & ts.SymbolFlags.Function) return callable(symbol, `## ${name}`)
  if (declared.isUnion()) return ['', `## ${name}`, '', `\`${declared.types.map(written).join(' | ')}\`: ${comment(symbol)}`]
  if (symbol.flags & ts.SymbolFlags.TypeAlias) return ['', `## ${name}`, '', comment(symbol), ...table(declared.getProperties())]
  return ['', `## ${name}`, '', `\`${written(checker.getTypeOfSymbol(symbol))}\`: ${comment(symbol)}`]
}

/**
 * Return whether a member is declared in a class, and not in one above it.
 * @param {ts.Symbol} member
 * @param {ts.Symbol} symbol
 */
function isOwn(member, symbol) {
  for (let node = member.valueDeclaration?.parent; node; node = node.parent) if (node === symbol.valueDeclaration) return true
  return false
}

const lines = [HEAD.trimEnd()]
for (const entry of entries) {
  const module = checker.getSymbolAtLocation(/** @type {ts.SourceFile} */ (program.getSourceFile(entry)))
  const found = checker.getExportsOfModule(/** @type {ts.Symbol} */ (module))
  const isElement = entry.endsWith('element.js') // whose types are those of the first entry
  for (const exported of found.filter(({ flags }) => !isElement || flags & ts.SymbolFlags.Class)) lines.push(...section(exported))
}
const text = `${lines.join('\n').replaceAll(/\n{3,}/g, '\n\n')}\n`
if (!process.argv.includes('--check')) await writeFile(page, text)
else if ((await readFile(page, 'utf8')) !== text) {
  console.error('docs/web/api.md is not what the comments say; write it with: node web/api.mjs')
  process.exit(1)
}
