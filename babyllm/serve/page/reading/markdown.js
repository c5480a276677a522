// Markdown: text -> tokens by marked's lexer -> nodes. What the model says becomes text nodes and checked links, never HTML.

// Some texts take time by the square of their length: what is deeper in blocks or longer without one stays as it was typed.
const MAX_DEPTH = 16, MAX_RUN = 10_000;

// CommonMark ends no emphasis at "**你好。**世界": a mark stands before the stars and a letter after them, as where a word begins.
// East Asian text has no spaces there. So its marks count as letters, and beside its characters the marks of others open and close.
const EAST = "\\p{sc=Han}\\p{sc=Hira}\\p{sc=Kana}\\p{sc=Hang}\\p{sc=Bopo}\\u3001-\\u303f\\uff00-\\uffef";
const MARK = `(?![*~${EAST}])[\\p{P}\\p{S}]`, LETTER = `(?![${EAST}])(?:[^\\s\\p{P}\\p{S}]|~)`;
const PLAIN = marked.Lexer.rules.inline.breaks;
function closers(char, run, skipped) {                           // marked reads the groups as: closes, closes, opens, opens, both
  const [any, run1] = [`[^\\s${char}]`, `(${run})(?!${char})`];
  return new RegExp([skipped, `[^${char}]+(?=[^${char}])`, `${any}(${run})(?=\\s|$)`, `${LETTER}${run1}(?=${MARK})`,
                     `\\s${run1}(?=${any})`, `${MARK}${run1}(?=${LETTER})`, `${any}${run1}(?=${any})`].filter(Boolean).join("|"), "gu");
}
const opener = (rule) => new RegExp(rule.source.replace(/\(\?!~\)(?=\[\\p\{P\})/, `(?![~${EAST}])`), "u");
const INLINE = {
  ...PLAIN,
  punctuation: new RegExp(`^((?![*_])[\\s\\p{P}\\p{S}${EAST}])`, "u"),
  emStrongLDelim: opener(PLAIN.emStrongLDelim),
  emStrongRDelimAst: closers("\\*", "\\*+", "^[^_*]*?__[^_*]*?\\*[^_*]*?(?=__)"),
  delLDelim: opener(PLAIN.delLDelim),
  delRDelim: closers("~", "~~?", ""),
};

// A formula is one piece: its stars and underscores mean no emphasis. One that is not closed yet is a formula to the end of the text,
// as a fence is code, and is shown as it is written.
const DOLLARS = String.raw`\$\$(?:\\.|[^\\$\n]|\n(?![ \t]*\n)){1,2000}`, BRACKETS = String.raw`\\\[(?:\\[^\]]|[^\\\n]|\n(?![ \t]*\n)){1,2000}`;
const ENVIRONMENTS = "(?<kind>(?:equation|align|gather|multline|alignat|flalign|[bpvBV]?matrix|d?cases|array|split|aligned)\\*?)";
const BEGUN = String.raw`\\begin\{${ENVIRONMENTS}\}(?:(?!\\end\{\k<kind>\})(?:[^\n]|\n(?![ \t]*\n))){1,2000}`;
const ENDED = String.raw`\\end\{\k<kind>\}`;
const DISPLAYED = String.raw`${DOLLARS}\$\$|${BRACKETS}\\\]|${BEGUN}${ENDED}`;
const INLINED = String.raw`\$(?![\s$])(?:\\.|[^\\$\n。]){1,500}(?<!\s)\$(?!\d)|\\\((?:\\[^)]|[^\\]){1,500}\\\)`;
const FORMULA = new RegExp(`^(?:${DISPLAYED}|${INLINED})`);
const FORMULA_BLOCK = new RegExp(String.raw`^ {0,3}(?:${DISPLAYED})[ \t]*(?:\n|$)`);
const OPEN_FORMULA = new RegExp(String.raw`^ {0,3}(?:${DOLLARS}|${BRACKETS}|${BEGUN})\$?\\?$(?![\s\S])`);
const FORMULA_LINE = /\n {0,3}(?:\$\$|\\\[|\\begin\{)/;
const FORMULAS = new RegExp(FORMULA.source.slice(1), "g");
function formulaBlock(src) {
  const found = FORMULA_BLOCK.exec(src) ?? OPEN_FORMULA.exec(src);
  return found ? { type: "formula", raw: found[0], text: found[0].trim() } : undefined;
}
function formula(src) {
  const found = FORMULA.exec(src);
  return found ? { type: "formula", raw: found[0], text: found[0] } : undefined;
}
function formulaLine(src) {                                      // where a paragraph ends because a formula has a line for itself
  const at = src.slice(0, MAX_RUN).split("\n\n", 1)[0].search(FORMULA_LINE);
  return at < 0 ? at : at + 1;
}

const BEYOND_URL = new RegExp(`[\\u3001-\\u303f\\uff00-\\uffef\\u2014\\u2018-\\u201d\\u2026]|(?<=^(?:\\w+://)?[^/]*)[${EAST}]`, "u");
class Reader extends marked.Tokenizer {
  html() {}                                                      // tags are text
  tag() {}
  del(src, ...rest) { return src.startsWith("~~") ? super.del(src, ...rest) : undefined; }    // "5~10 元" is a range
  lheading(src) {                                                // "-" below a line that is being written begins a list
    const end = formulaLine(src), token = super.lheading(src.slice(0, end < 0 ? MAX_RUN : end));
    return token && /\n {0,3}(?:=+|-{3,})[ \t]*\n*$/.test(token.raw) ? token : undefined;
  }
  url(src) {                                                     // addresses end where Chinese goes on without a space
    const token = super.url(src), end = token ? token.raw.search(BEYOND_URL) : -1;
    return end < 0 ? token : super.url(token.raw.slice(0, end));
  }
}
class Lexer extends marked.Lexer {
  constructor(links) {
    const extensions = { block: [formulaBlock], startBlock: [formulaLine], inline: [formula],
                         startInline: [(src) => src.search(/\$|\\[([]|\\begin\{/)] };
    const hooks = { emStrongMask: (src) => src.replace(FORMULAS, (found) => "a".repeat(found.length)) };
    super({ ...marked.defaults, gfm: true, breaks: true, tokenizer: new Reader(), extensions, hooks });
    this.tokenizer.rules.inline = INLINE;
    Object.assign(this.tokens.links, links);
  }
  inlineTokens(src, tokens = []) {
    if (src.length <= MAX_RUN) return super.inlineTokens(src, tokens);
    tokens.push({ type: "text", raw: src, text: src });
    return tokens;
  }
}
function lex(text, links = {}) {
  try { return new Lexer(links).lex(text); } catch { return Object.assign([{ type: "text", raw: text, text }], { links }); }
}
const isShown = (token) => !["space", "def", "checkbox"].includes(token.type);
const readings = new WeakMap();                                  // of messages: {text, tokens, links}
function tokensOf(message) {
  const text = message.content.replace(/\r\n?/g, "\n"), before = readings.get(message);
  if (before?.text === text) return before;
  // What is added to a text changes its last block or takes it back, which changes the one before: all others stay as they were read.
  let tokens = before?.tokens ?? [], size = 0;
  for (let n_open = 2; n_open && tokens.length; tokens = tokens.slice(0, -1)) n_open -= isShown(tokens.at(-1));
  for (const { raw } of tokens) size = text.startsWith(raw, size) ? size + raw.length : NaN;
  if (text.includes("]:", size)) size = 0;                       // the address of a link that may stand anywhere
  const read = size ? lex(text.slice(size), before.links) : lex(text);
  const reading = { text, links: read.links, tokens: size ? [...tokens, ...read] : [...read] };
  readings.set(message, reading);
  return reading;
}

const SAFE = ["http:", "https:", "mailto:"];
function linkNode({ raw, href, tokens }, children) {
  let url = null;
  try { url = new URL(href); } catch { /* links to this server are not followed */ }
  if (!SAFE.includes(url?.protocol)) return raw;
  return make("a", { href: url.href, title: url.href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}
const NAMED = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&nbsp;": "\u00a0" };      // the lexer reads numbers alone
const plain = (text) => text.replace(/&(?:amp|lt|gt|quot|nbsp);/g, (name) => NAMED[name]);
const inlineNodes = (tokens) => withMarks((tokens ?? []).map(inlineNode));
function inlineNode(token) {
  switch (token.type) {
    case "strong": case "em": case "del": return make(token.type, {}, ...inlineNodes(token.tokens));
    case "codespan": return make("code", {}, token.text);
    case "formula": return formulaNode(token.text);
    case "br": return make("br");
    case "link": return linkNode(token, inlineNodes(token.tokens));
    case "image": return linkNode(token, [token.text || token.href]);      // nothing is fetched
    case "checkbox": return "";
    case "escape": return token.text;
    default: return token.tokens ? make("span", {}, ...inlineNodes(token.tokens)) : plain(token.text ?? token.raw);
  }
}
function codeNode(token, title = "") {
  const code = make("code"), language = (token.lang ?? "").trim();
  fillCode(code, token.text, language);
  return make("figure", {}, make("figcaption", {}, make("span", {}, title || language || " "), copyButton(() => code.textContent)),
              make("pre", { tabindex: 0 }, code));
}
function itemNode(item, depth) {
  const mark = item.task ? make("span", { class: "task" }, item.checked ? "☑ " : "☐ ") : null;
  const nodes = blockNodes(item.tokens, depth);
  if (mark && nodes[0]?.tagName === "P") nodes[0].prepend(mark); else if (mark) nodes.unshift(mark);
  return make("li", { class: item.task ? "todo" : null }, ...nodes);
}
function tableNode({ header, rows, align }) {
  const row = (cells, tag) => make("tr", {}, ...cells.map((cell, i) => make(tag, { class: align[i] }, ...inlineNodes(cell.tokens))));
  return make("div", { class: "table", tabindex: 0 },
              make("table", { class: header.length > 3 ? "many" : null }, make("thead", {}, row(header, "th")),
                   make("tbody", {}, ...rows.map((cells) => row(cells, "td")))));
}
function blockNode(token, depth) {
  if (depth > MAX_DEPTH) return make("p", {}, token.raw);
  switch (token.type) {
    case "heading": return make(`h${Math.min(6, token.depth + 2)}`, {}, ...inlineNodes(token.tokens));     // below those of the page
    case "code": return codeNode(token);
    case "formula": return make("div", { class: "table displayed", tabindex: 0 }, formulaNode(token.text));
    case "hr": return make("hr");
    case "blockquote": return make("blockquote", {}, ...blockNodes(token.tokens, depth + 1));
    case "list": return make(token.ordered ? "ol" : "ul", { start: token.ordered && token.start !== 1 ? token.start : null },
                             ...token.items.map((item) => itemNode(item, depth + 1)));
    case "table": return tableNode(token);
    case "text": return token.tokens ? make("span", {}, ...inlineNodes(token.tokens)) : make("p", {}, token.text);
    default: return make("p", {}, ...inlineNodes(token.tokens));
  }
}
const blockNodes = (tokens, depth) => tokens.filter(isShown).map((token) => blockNode(token, depth));
function fillMarkdown(body, message) {
  // Blocks that did not change stay, so that an answer being written can be selected and costs little.
  const { tokens, links } = tokensOf(message), known = JSON.stringify(links), shown = tokens.filter(isShown);
  shown.forEach((token, i) => {
    const source = known + token.type + token.raw, old = body.children[i];
    if (old?.source === source) return;
    const head = token.type === "code" ? `code ${token.lang}` : null;
    const code = head && old?.head === head ? old.querySelector("code") : null;
    if (code) fillCode(code, token.text, (token.lang ?? "").trim());
    const node = code ? old : blockNode(token, 0);
    Object.assign(node, { source, head });
    if (!old) body.append(node); else if (node !== old) old.replaceWith(node);
  });
  while (body.children.length > shown.length) body.lastElementChild.remove();
}
