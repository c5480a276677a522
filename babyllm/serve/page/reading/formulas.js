// Formulas: TeX -> tree by Temml -> MathML nodes. Elements, attributes and styles are those named here: a formula can neither
// load nor link nor name anything. What Temml does not know stays as it was typed.

const MATH = "http://www.w3.org/1998/Math/MathML";
const MATH_ELEMENTS = new Set(
  (
    "math mrow mi mn mo mtext mspace mfrac msqrt mroot mstyle mpadded mphantom msub msup msubsup munder mover " +
    "munderover mmultiscripts mprescripts mtable mtr mtd menclose none"
  ).split(" "),
);
const MATH_ATTRIBUTES = new Set(
  (
    "accent columnalign depth display displaystyle fence form height largeop linebreak linethickness lspace " +
    "mathbackground mathcolor mathsize mathvariant maxsize minsize movablelimits notation rowspacing rspace scriptlevel " +
    "separator stretchy " +
    "symmetric voffset width"
  ).split(" "),
);
const MATH_STYLE =
  /^(?:(?:border|padding|margin)(?:Top|Right|Bottom|Left)?|color|width|height|textAlign|fontWeight|math-?[dD]epth|whiteSpace|display)$/;
const MATH_VALUE = /^[\w #.,%()+-]*$/;
const DISPLAY = /^(?:\$\$|\\\[|\\begin)/,
  DELIMITERS = /^(?:\$\$?|\\[([])([^]*?)(?:\$\$?|\\[)\]])$/;

function mathNodes(tree) {
  if (typeof tree.text === "string") return [tree.text];
  const children = (tree.children ?? []).flatMap(mathNodes);
  if (!MATH_ELEMENTS.has(tree.type)) return children;
  const node = document.createElementNS(MATH, tree.type);
  for (const [name, value] of Object.entries(tree.attributes ?? {}))
    if (MATH_ATTRIBUTES.has(name)) node.setAttribute(name, value);
  for (const [name, value] of Object.entries(tree.style ?? {}))
    if (MATH_STYLE.test(name) && MATH_VALUE.test(value)) node.style[name] = value;
  const classes = (tree.classes ?? []).filter(Boolean).join(" ");
  if (classes) node.setAttribute("class", classes);
  node.append(...children);
  return [node];
}
function formulaNode(text) {
  const isBlock = DISPLAY.test(text),
    tex = DELIMITERS.exec(text)?.[1] ?? text;
  const options = {
    displayMode: isBlock,
    throwOnError: true,
    trust: false,
    maxSize: [8, 80],
    maxExpand: 200,
    wrap: isBlock ? "none" : "tex",
  };
  try {
    const [math] = mathNodes(temml.__renderToMathMLTree(tex, { ...options, macros: {} }));
    math.setAttribute("title", text);
    math.isLong = !isBlock && tex.length > 24;
    return math;
  } catch {
    return make("code", { class: "formula" }, text);
  }
}
// A mark after a formula that is set in several lines would stand on a line of its own: it becomes a part of the formula.
function withMarks(nodes) {
  nodes.forEach((node, i) => {
    const mark =
      node.isLong && typeof nodes[i + 1] === "string" ? /^[.,;:!?)，。；：！？、）]+/.exec(nodes[i + 1])?.[0] : null;
    if (!mark) return;
    const after = document.createElementNS(MATH, "mtext");
    after.setAttribute("class", "after");
    after.append(mark);
    const last = node.lastElementChild;
    if (last?.localName === "mrow") last.append(after);
    else node.append(after);
    nodes[i + 1] = nodes[i + 1].slice(mark.length);
  });
  return nodes;
}
