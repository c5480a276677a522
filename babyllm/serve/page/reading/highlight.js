// Colours of code: a language is a list of [kind, pattern]; the first that matches is what stands there. What is open at the
// end of a text, as while it is being written, reaches to its end.

const NAME = "[\\p{L}_$][\\p{L}\\p{N}_$]*",
  NUMBER = "\\b(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d[\\d_]*)?(?:[eE][+-]?\\d+)?)[a-zA-Z]{0,3}\\b";
const QUOTED = `"(?:\\\\.|[^"\\\\\\n])*"?|'(?:\\\\.|[^'\\\\\\n])*'?`,
  BLOCK_COMMENT = "/\\*[^]*?(?:\\*/|$(?![^]))";
const CALL = `${NAME}(?=[ \\t]*\\()`;
const words = (text) => new Set(text.split(/\s+/));
function language(keywords, rules, options = {}) {
  const pattern = new RegExp(rules.map(([, source]) => `(${source})`).join("|"), "gmu");
  return { kinds: rules.map(([kind]) => kind), pattern, keywords: words(keywords), ...options };
}
const cLike = (keywords, more = []) =>
  language(keywords, [
    ["comment", `//.*|${BLOCK_COMMENT}`],
    ...more,
    ["string", QUOTED],
    ["number", NUMBER],
    ["call", CALL],
    ["name", NAME],
  ]);

const LITERALS = "true false null this";
const C_WORDS = `auto break case char const continue default do double else enum extern float for goto if inline int long
  register return short signed sizeof static struct switch typedef union unsigned void volatile while bool
  true false NULL`;
const SCRIPT = cLike(
  `${LITERALS} as async await break case catch class const continue debugger default delete do else enum
  export extends finally for from function get if implements import in instanceof interface let new of
  private protected public readonly return set static super switch throw try type typeof undefined var
  void while with yield`,
  [["string", "`(?:\\\\[^]|[^`\\\\])*`?"]],
);
const PYTHON = language(
  `False None True and as assert async await break case class continue def del elif else except finally for
  from global if import in is lambda match nonlocal not or pass raise return self try while with yield`,
  [
    ["comment", "#.*"],
    ["string", `[rRbBfFuU]{0,2}(?:"""[^]*?(?:"""|$(?![^]))|'''[^]*?(?:'''|$(?![^]))|${QUOTED})`],
    ["meta", "^[ \\t]*@[\\w.]+"],
    ["number", NUMBER],
    ["call", CALL],
    ["name", NAME],
  ],
);
const C = cLike(C_WORDS, [["meta", "^[ \\t]*#[ \\t]*\\w+"]]);
const CPP = cLike(
  `${C_WORDS} ${LITERALS} catch class constexpr decltype delete explicit final friend mutable namespace new
  noexcept nullptr operator override private protected public template throw try typename using virtual`,
  [["meta", "^[ \\t]*#[ \\t]*\\w+"]],
);
const JAVA = cLike(
  `${LITERALS} abstract as boolean break byte case catch char class const continue data default do double
  else enum extends final finally float for fun if implements import in instanceof int interface internal
  is long namespace native new object override package private protected public record return sealed short
  static string super switch synchronized throw throws try val var void volatile when while using`,
  [
    ["string", '"""[^]*?(?:"""|$(?![^]))'],
    ["meta", "@[\\w.]+"],
  ],
);
const GO = cLike(
  `break case chan const continue default defer else fallthrough for func go goto if import interface map
  package range return select struct switch type var true false nil bool byte error float32 float64 int
  int32 int64 rune string uint`,
  [["string", "`[^`]*`?"]],
);
const RUST = cLike(
  `as async await break const continue crate dyn else enum extern false fn for if impl in let loop match
  mod move mut pub ref return self Self static struct super trait true type unsafe use where while bool
  char f32 f64 i32 i64 str u8 u32 u64 usize String Vec Option Result`,
  [
    ["meta", "#!?\\[[^\\]\\n]*\\]?"],
    ["name", "'[a-z_]+\\b(?!')"],
  ],
);
const SHELL = language(
  `if then else elif fi for while until do done case esac in function return exit export local echo cd set
  unset source alias sudo`,
  [
    ["comment", "(?<![^\\s;])#.*"],
    ["string", `"(?:\\\\[^]|[^"\\\\])*"?|'[^']*'?`],
    ["meta", "\\$(?:\\{[^}\\n]*\\}?|[\\w@#?*!]+)"],
    ["attribute", "(?<![^\\s])--?[\\w-]+"],
    ["number", "(?<![\\w.-])\\d+(?![\\w.-])"],
    ["name", "[\\p{L}_][\\p{L}\\p{N}_-]*"],
  ],
);
const SQL = language(
  `add all alter and as asc avg begin between by case check commit count create cross database default
  delete desc distinct drop else end exists foreign from full group having if in index inner insert into
  is join key left like limit max min not null offset on or order outer over partition primary references
  right rollback select set sum table then union unique update values view when where with int integer
  varchar text date decimal float boolean`,
  [
    ["comment", `--.*|${BLOCK_COMMENT}`],
    ["string", "'(?:''|[^'])*'?"],
    ["number", NUMBER],
    ["name", NAME],
  ],
  { anyCase: true },
);
const JSON_TEXT = language("true false null", [
  ["attribute", '"(?:\\\\.|[^"\\\\\\n])*"(?=[ \\t]*:)'],
  ["comment", "//.*"],
  ["string", '"(?:\\\\.|[^"\\\\\\n])*"?'],
  ["number", `-?${NUMBER}`],
  ["name", NAME],
]);
const MARKUP = language("", [
  ["comment", "<!--[^]*?(?:-->|$(?![^]))"],
  ["keyword", "</?[A-Za-z!?][\\w:.-]*|/?>"],
  ["attribute", "(?<=[\\s\"'])[@:\\w][\\w:.-]*(?==)"],
  ["string", `(?<==)(?:"[^"]*"?|'[^']*'?)`],
  ["meta", "&#?\\w+;"],
]);
const STYLE = language("", [
  ["comment", BLOCK_COMMENT],
  ["keyword", "@[\\w-]+|!important"],
  ["string", QUOTED],
  ["attribute", "(?<=[{;\\s])[\\w-]+(?=[ \\t]*:[^:{]*[;}\\n])"],
  ["number", "#[\\da-fA-F]{3,8}\\b|(?<![\\w-])-?\\d*\\.?\\d+(?:%|[a-z]{1,4})?"],
  ["call", "[\\w-]+(?=\\()"],
]);
const SETTINGS = language("true false null yes no on off", [
  ["comment", "(?<!\\S)[#;].*"],
  ["meta", "^\\[.*\\]"],
  ["attribute", "^[ \\t]*(?:- )?[\\p{L}\\p{N}_.-]+(?=[ \\t]*[:=])"],
  ["string", QUOTED],
  ["number", "(?<![\\w.-])-?\\d+(?:\\.\\d+)?(?![\\w.-])"],
  ["name", NAME],
]);
const CHANGES = language("", [
  ["meta", "^(?:@@.*|diff .*|index .*|---.*|\\+\\+\\+.*)"],
  ["added", "^\\+.*"],
  ["removed", "^-.*"],
]);
const TEX = language("", [
  ["comment", "(?<!\\\\)%.*"],
  ["keyword", "\\\\(?:[A-Za-z]+|.)"],
  ["meta", "[$&{}]"],
  ["number", NUMBER],
]);
const RUBY = language(
  `begin break case class def do else elsif end ensure false for if in module next nil not or and redo
  rescue retry return self super then true undef unless until when while yield require function local
  repeat library`,
  [
    ["comment", "#.*|--.*"],
    ["string", QUOTED],
    ["number", NUMBER],
    ["call", CALL],
    ["name", NAME],
  ],
);
const LISP = language("nil t true false", [
  ["comment", ";.*"],
  ["string", '"(?:\\\\[^]|[^"\\\\])*"?'],
  ["keyword", "(?<=\\()[\\p{L}+*/<>=!?-][\\p{L}\\p{N}+*/<>=!?-]*"],
  ["number", NUMBER],
  ["name", NAME],
]);
const LANGUAGES = Object.fromEntries(
  [
    [PYTHON, "python py python3 pycon ipython"],
    [SCRIPT, "javascript js jsx typescript ts tsx mjs node php"],
    [C, "c h"],
    [CPP, "cpp c++ cc hpp cuda cu objc arduino"],
    [JAVA, "java kotlin kt scala csharp cs c# dart swift groovy"],
    [GO, "go golang"],
    [RUST, "rust rs"],
    [SHELL, "bash sh shell zsh console powershell ps1 dockerfile docker makefile make"],
    [SQL, "sql mysql postgresql sqlite"],
    [JSON_TEXT, "json jsonc json5 jsonl"],
    [MARKUP, "html xml svg vue xhtml"],
    [STYLE, "css scss less"],
    [SETTINGS, "yaml yml toml ini conf properties env hcl terraform tf nginx"],
    [CHANGES, "diff patch"],
    [TEX, "tex latex"],
    [LISP, "lisp elisp emacs emacs-lisp scheme clojure racket"],
    [RUBY, "ruby rb lua r julia perl"],
  ].flatMap(([rules, names]) => names.split(/\s+/).map((name) => [name, rules])),
);
const languageOf = (name) => (Object.hasOwn(LANGUAGES, name.toLowerCase()) ? LANGUAGES[name.toLowerCase()] : null);

function* colours({ kinds, pattern, keywords, anyCase }, text, from) {
  let at = from;
  pattern.lastIndex = from;
  for (let found; (found = pattern.exec(text)); at = pattern.lastIndex) {
    let kind = kinds[found.findIndex((group, i) => i && group !== undefined) - 1];
    if (["name", "call"].includes(kind) && keywords.has(anyCase ? found[0].toLowerCase() : found[0])) kind = "keyword";
    if (kind === "name") kind = null;
    if (found.index > at) yield [null, text.slice(at, found.index)];
    yield [kind, found[0]];
  }
  if (at < text.length) yield [null, text.slice(at)];
}
const MAX_COLOURED = 50_000; // characters
function fillCode(code, text, name) {
  const rules = text.length <= MAX_COLOURED ? languageOf(name) : null;
  if (!rules) {
    const before = code.settled ? null : code.textContent;
    if (before && text.startsWith(before)) code.append(text.slice(before.length));
    else code.replaceChildren(text);
    code.settled = null;
    return;
  }
  // The lines that were complete outside of anything open stay as they are.
  const { at, n } = text.startsWith(code.settled?.text ?? "\0")
    ? { at: code.settled.text.length, n: code.settled.n }
    : { at: 0, n: 0 };
  while (code.childNodes.length > n) code.lastChild.remove();
  let done = at;
  for (const [kind, part] of colours(rules, text, at)) {
    const cut = kind ? 0 : part.lastIndexOf("\n") + 1;
    if (cut) {
      code.append(part.slice(0, cut));
      code.settled = { text: text.slice(0, done + cut), n: code.childNodes.length };
    }
    if (cut < part.length) code.append(kind ? make("span", { class: kind }, part) : part.slice(cut));
    done += part.length;
  }
}
