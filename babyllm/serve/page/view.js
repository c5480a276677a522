// What is on the screen.

let chat = null;          // the conversation
let running = null;       // the answers being written, as asking.js has them
let problem = null;       // what went wrong: {text() in the present language, detail, locked, retry(), edit()}
let edited = null;        // the id of the question that the next one stands beside
let strings = STRINGS.en;

// What stands one after the other: a message alone, or the two answers of a comparison.
function together(message) {
  if (!message.pair) return [message];
  const all = new Set([...chat.messages, ...(running?.parts ?? []).map((part) => part.message)]);
  return [...all].filter(({ pair }) => pair === message.pair).sort((a, b) => a.side - b.side);
}
function shown() {
  const path = pathTo(chat, chat.leaf).map(together);
  if (!running || isBegun(running)) return path;
  // Until it has begun, an answer takes the place of no other.
  const { asked, parts } = running, answers = parts.map((part) => part.message);
  if (!find(chat, asked.id)) return [...pathTo(chat, asked.parent).map(together), [asked], answers];
  return path.at(-1)[0].id === asked.id ? [...path, answers] : path;
}
function fillBody(body, message) {
  if (message.role !== "assistant") body.textContent = message.content;
  else if (settings.probabilities && message.tokens?.length) fillTokens(body, message.tokens);
  else {
    if (body.firstElementChild?.className === "tokens") body.replaceChildren();
    fillMarkdown(body, message);
  }
}
const openThoughts = new Set(), thoughts = new WeakMap();         // ids of messages; what was read of their reasoning
function fillThought(node, message) {
  const isThinking = partOf(message) && !message.content;
  node.querySelector("summary").textContent = isThinking ? strings.thinking : strings.reasoning;
  node.querySelector("summary").classList.toggle("waiting", Boolean(isThinking));
  if (!node.open) return;
  if (!thoughts.has(message)) thoughts.set(message, {});
  fillMarkdown(node.querySelector(".thought"), Object.assign(thoughts.get(message), { content: message.reasoning }));
}
function thoughtNode(message) {
  const node = make("details", { class: "reasoning", open: openThoughts.has(message.id) ? "" : null },
                    make("summary"), make("div", { class: "thought reading", dir: "auto" }));
  node.addEventListener("toggle", () => {
    if (node.open) openThoughts.add(message.id); else openThoughts.delete(message.id);
    fillThought(node, message);
  });
  return node;
}
function callNode({ name, arguments: given }) {
  let text = given;
  try { text = JSON.stringify(JSON.parse(given), null, 2); } catch { /* as it was written */ }
  return codeNode({ text, lang: "json" }, strings.call(name));
}
function fillMessage(article, message) {
  const body = article.querySelector(":scope > .body");
  fillBody(body, message);
  if (message.reasoning) {
    if (!article.querySelector(".reasoning")) body.before(thoughtNode(message));
    fillThought(article.querySelector(".reasoning"), message);
  }
  if (!message.calls?.length) return;
  if (!article.querySelector(".calls")) body.after(make("div", { class: "calls reading" }));
  article.querySelector(".calls").replaceChildren(...message.calls.filter(Boolean).map(callNode));
}
function turnsNode(message) {
  const all = besides(chat, message), pair = message.pair ?? NaN;
  const at = all.findIndex((other) => other === message || other.pair === pair);
  if (at < 0 || all.length < 2) return null;
  const turn = (name, step) => {
    const button = iconButton(name, strings[name], () => {
      turnTo(chat, all[at + step]);
      problem = edited = null;
      save(chat);
      draw();
      const again = $("messages").querySelector(`[data-id="${all[at + step].id}"] .turns`);
      (again.querySelector(`button[aria-label="${strings[name]}"]:enabled`) ?? again.querySelector("button:enabled")).focus();
    });
    button.disabled = !all[at + step];
    return button;
  };
  const place = make("span", { "aria-label": strings.place(at + 1, all.length), role: "img" }, `${at + 1}/${all.length}`);
  return make("div", { class: "turns" }, turn("left", -1), place, turn("right", 1));
}
function answerTools(message, isLast) {
  const tools = [], { stats, note, tokens, pair } = message, isChosen = pathTo(chat, chat.leaf).includes(message);
  if (pair) tools.push(iconButton("check", strings.choose, () => choose(message), String(isChosen)));
  const copy = message.content ? copyButton(() => message.content) : null;
  if (copy) tools.push(copy);
  if (isLast && !running && isChosen) tools.push(iconButton("again", strings.again, regenerate));
  if (server.feedback && message.content) {
    tools.push(...[["good", 1], ["bad", -1]].map(([name, rating]) =>
      iconButton(name, strings[name], () => rate(message, rating), String(message.rating === rating))));
  }
  if (stats) tools.push(make("span", { class: "stats" }, strings.speed(stats.speed.toFixed(1), stats.n, seconds(stats.wait))));
  if (note) tools.push(make("span", {}, strings[note]));
  if (isLast && !running && canGoOn(message)) tools.push(textButton("forward", strings.goOn, () => goOn(message)));
  if (settings.probabilities && tokens?.length && isLast) tools.push(make("span", {}, strings.hint));
  return tools;
}
const seconds = (wait) => (wait >= 0.1 ? wait.toFixed(1) : Math.max(wait, 0.001).toPrecision(1));
let bodies = new WeakMap();                                      // nodes of messages: what was read is not read again
function messageNode(message, isLast, others = []) {
  const isUser = message.role === "user", part = partOf(message), isRunning = part && !part.isDone;
  const isLeaving = running && !isBegun(running) && message.parent === running.asked.id && !part &&      // until a new one has begun
    !running.parts.some((each) => each.message.pair && each.message.pair === message.pair);
  const state = `${isRunning ? " writing" : ""}${isLeaving ? " leaving" : ""}`;
  const body = bodies.get(message) ?? make("div", { class: "body reading", dir: "auto" }), footer = make("footer", {});
  const by = others.length ? make("h3", { class: "by" }, describe(message, others[0])) : null;
  const article = make("article", { class: `message ${message.role}${state}`, "data-id": message.id }, by, body, footer);
  const turns = running || others.some(({ side }) => side < message.side) ? null : turnsNode(message);
  fillMessage(article, message);
  bodies.set(message, body);
  if (turns) footer.append(turns);
  if (isUser) {
    if (!running) footer.append(iconButton("edit", strings.edit, () => startEdit(message)));
  } else if (isLeaving) footer.append(make("span", { class: "waiting" }, strings.writing));
  else if (!isRunning && message.role === "assistant") {
    if (!hasText(message)) article.insertBefore(make("p", { class: "note" }, strings.empty), footer);
    footer.append(...answerTools(message, isLast));
  }
  return article;
}
function placeNode(messages, at, places) {
  const isLast = at === places.length - 1;
  if (messages.length === 1) return messageNode(messages[0], isLast);
  const nodes = messages.map((message) => messageNode(message, isLast, messages.filter((other) => other !== message)));
  const path = pathTo(chat, chat.leaf);
  messages.forEach((message, i) => nodes[i].classList.toggle("other", !path.includes(message) && isBeyond(messages, path)));
  return make("section", { class: "pair", "aria-label": strings.comparison }, ...nodes);
}
// Whether the conversation goes on after one of these messages.
const isBeyond = (messages, path) => messages.some((message) => path.includes(message) && path.at(-1) !== message);
function problemNode() {
  const { text, detail, locked, retry, edit } = problem;
  const names = { "aria-label": strings.key, placeholder: strings.key };
  const input = locked ? make("input", { type: "password", autocomplete: "off", ...names }) : null;
  const submit = (event) => {
    event.preventDefault();
    if (input) keepKey(input.value.trim());
    problem = null;
    retry();
  };
  const again = retry ? make("button", {}, locked ? strings.useKey : strings.retry) : null;
  const change = edit ? make("button", { type: "button", onclick: edit }, strings.change) : null;
  return make("div", { class: "problem", role: "alert" }, make("p", {}, text()), detail ? make("p", { lang: "en" }, detail) : null,
              input || again || change ? make("form", { onsubmit: submit }, input, again, change) : null);
}
function welcomeNode() {
  return make("div", { id: "welcome" }, make("h2", {}, strings.welcome), make("p", {}, server.storedDays ? strings.storedHint(server.storedDays) : strings[server.hint]),
    ...(server.examples ?? strings.examples).map((text) => make("button", { type: "button", onclick: () => say(text) }, text)));
}
function draw() {
  hideAlternatives();
  const places = shown(), last = places.at(-1)?.[0];
  if (!problem && !running && ["user", "tool"].includes(last?.role)) problem = { text: () => strings.unanswered, retry: () => answer(last) };
  const nodes = [...places.map(placeNode), ...(problem ? [problemNode()] : [])];
  const skipped = places.findLast(([message]) => message.role === "assistant")?.[0].skipped;
  if (skipped) nodes.splice(skipped, 0, make("p", { class: "note border" }, strings.skipped));
  if (server.storedDays && nodes.length) nodes.unshift(make("p", { class: "note" }, strings.storedHint(server.storedDays)));
  following(() => $("messages").replaceChildren(...(nodes.length ? nodes : [welcomeNode()])));
  $("send").replaceChildren(icon(running ? "stop" : "send"));
  $("send").setAttribute("aria-label", running ? strings.stop : strings.send);
  $("send").title = running ? strings.stop : strings.send;
  $("send").disabled = !running && !$("input").value.trim();
  $("editing").hidden = edited === null;
}
function drawHistory() {
  const shown = [...chats.values()].sort((a, b) => b.updated - a.updated);
  $("nothing").hidden = shown.length > 0 || Boolean(server.storedDays);
  $("history").replaceChildren(...shown.map((one) => {
    const title = titleOf(one);
    return make("li", { class: one === chat ? "current" : "" },
      make("button", { type: "button", title, "aria-current": one === chat ? "true" : null, onclick: () => show(one) },
           make("span", {}, title)),
      iconButton("trash", `${strings.remove}: ${title}`, () => remove(one)));
  }));
}
function drawStrings() {
  const language = settings.language || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
  strings = STRINGS[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  $("language").textContent = language === "zh" ? "English" : "中文";
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = strings[node.dataset.text];
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = strings[node.dataset.placeholder];
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", strings[node.dataset.label]);
    if (node.tagName === "BUTTON") node.title = strings[node.dataset.label];
  }
  bodies = new WeakMap();
  drawControls();
  drawModel();
  drawHistory();
  draw();
}
// Whoever looks at the end keeps looking at it when `change` makes the conversation longer.
function following(change) {
  const follow = isAtEnd();
  change();
  if (follow) toEnd();
  $("down").hidden = isAtEnd();
}
const isAtEnd = () => $("scroller").scrollHeight - $("scroller").scrollTop - $("scroller").clientHeight < 60;
const toEnd = () => { $("scroller").scrollTop = $("scroller").scrollHeight; };
function grow() {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight}px`;
  $("send").disabled = !running && !$("input").value.trim();
  write(stores.tab, "babyllm.draft", $("input").value);
}
