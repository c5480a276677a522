// Tokens and what else was likely: message.tokens is a list of [text, log probability, [[text, log probability], ...]].
const visible = (text) => text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "∅";
function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return value < 0.01 ? "< 0.01 %" : `${value.toFixed(value < 0.995 ? 2 : 1)} %`;
}
const doubt = (logprob) => `p${[0.9, 0.5, 0.1].filter((bound) => Math.exp(logprob) < bound).length}`;
function tokenText(item) {
  if (!item.bytes || !item.bytes.length) return item.token;
  try { return new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(item.bytes)); } catch {
    return `⟨${item.bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}⟩`;   // a part of a character
  }
}
function fillTokens(body, tokens) {
  let box = body.firstElementChild;
  if (!box || box.className !== "tokens") {
    box = make("div", { class: "tokens", tabindex: 0, role: "group", "aria-label": `${strings.tokens}. ${strings.hint}` });
    box.addEventListener("pointerover", (event) => event.target !== box && showAlternatives(box, event.target));
    box.addEventListener("click", (event) => event.target !== box && showAlternatives(box, event.target));
    box.addEventListener("pointerleave", hideAlternatives);
    box.addEventListener("blur", hideAlternatives);
    box.addEventListener("keydown", (event) => {
      const chosen = box.querySelector(".chosen");
      const right = chosen ? chosen.nextElementSibling : box.firstElementChild;
      const next = { ArrowRight: right, ArrowLeft: chosen?.previousElementSibling }[event.key];
      if (next) { event.preventDefault(); showAlternatives(box, next); }
    });
    body.replaceChildren(box);
  }
  box.tokens = tokens;
  for (const [text, logprob] of tokens.slice(box.children.length)) {
    box.append(make("span", { class: doubt(logprob) }, text.replace(/\n/g, "↵\n") || "∅"));
  }
}
function showAlternatives(box, span) {
  const [text, logprob, top] = box.tokens[[...box.children].indexOf(span)];
  const rows = top.some(([other]) => other === text) ? top : [...top, [text, logprob]];
  box.querySelector(".chosen")?.classList.remove("chosen");
  span.classList.add("chosen");
  const panel = $("alternatives");
  panel.replaceChildren(...rows.map(([other, value]) => {
    const bar = make("i");
    bar.style.setProperty("--share", `${100 * Math.exp(value)}%`);
    return make("div", {}, make(other === text ? "b" : "code", {}, (other === text ? "▸ " : "  ") + visible(other)), bar,
                make("output", {}, percent(value)));
  }), make("p", {}, strings.before));
  panel.hidden = false;
  const at = span.getClientRects()[0], size = panel.getBoundingClientRect();
  const below = at.bottom + 8 + size.height < innerHeight;
  panel.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  panel.style.top = `${Math.max(8, below ? at.bottom + 8 : at.top - size.height - 8)}px`;
}
function hideAlternatives() {
  $("alternatives").hidden = true;
  document.querySelector(".chosen")?.classList.remove("chosen");
}

