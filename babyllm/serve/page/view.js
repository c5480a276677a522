// What is on the screen.

let chat = null;          // the conversation
let running = null;       // the answer being written: {chat, asked, former, message, isBegun, stopper}
let problem = null;       // what went wrong: {text() in the present language, detail, locked, retry(), edit()}
let edited = null;        // the id of the question that the next one stands beside
let strings = STRINGS.en;

function shown() {
  const path = pathTo(chat, chat.leaf);
  if (!running || running.isBegun) return path;
  // Until it has begun, an answer takes the place of no other.
  const { asked, message } = running;
  if (!find(chat, asked.id)) return [...pathTo(chat, asked.parent), asked, message];
  return path.at(-1).id === asked.id ? [...path, message] : path;
}
function fillBody(body, message) {
  if (message.role === "user") body.textContent = message.content;
  else if (settings.probabilities && message.tokens?.length) fillTokens(body, message.tokens);
  else {
    if (body.firstElementChild?.className === "tokens") body.replaceChildren();
    fillMarkdown(body, message);
  }
}
function turnsNode(message) {
  const all = besides(chat, message), at = all.indexOf(message);
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
function answerTools(message, index, isLast) {
  const tools = [], { stats, note, tokens } = message;
  const copy = message.content ? copyButton(() => message.content) : null;
  if (copy) tools.push(copy);
  if (isLast && !running) tools.push(iconButton("again", strings.again, regenerate));
  if (server.feedback && message.content) {
    tools.push(...[["good", 1], ["bad", -1]].map(([name, rating]) =>
      iconButton(name, strings[name], () => rate(index, rating), String(message.rating === rating))));
  }
  if (stats) tools.push(make("span", { class: "stats" }, strings.speed(stats.speed.toFixed(1), stats.n, seconds(stats.wait))));
  if (note) tools.push(make("span", {}, strings[note]));
  if (settings.probabilities && tokens?.length && isLast) tools.push(make("span", {}, strings.hint));
  return tools;
}
const seconds = (wait) => (wait >= 0.1 ? wait.toFixed(1) : Math.max(wait, 0.001).toPrecision(1));
function messageNode(message, index, messages) {
  const body = make("div", { class: "body", dir: "auto" });
  const isRunning = running?.message === message, isLast = index === messages.length - 1;
  const isLeaving = running && !running.isBegun && message.parent === running.asked.id && !isRunning;      // until a new one has begun
  const footer = make("footer", {}), turns = running ? null : turnsNode(message);
  fillBody(body, message);
  if (turns) footer.append(turns);
  if (message.role === "user") {
    if (!running) footer.append(iconButton("edit", strings.edit, () => startEdit(message)));
  } else if (isLeaving) footer.append(make("span", { class: "waiting" }, strings.writing));
  else if (!isRunning) {
    if (!message.content) body.append(make("span", { class: "note" }, strings.empty));
    footer.append(...answerTools(message, index, isLast));
  }
  const state = `${isRunning ? " writing" : ""}${isLeaving ? " leaving" : ""}`;
  return make("article", { class: `message ${message.role}${state}`, "data-id": message.id }, body, footer);
}
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
  return make("div", { id: "welcome" }, make("h2", {}, strings.welcome), make("p", {}, strings[server.hint]),
    ...strings.examples.map((text) => make("button", { type: "button", onclick: () => say(text) }, text)));
}
function draw() {
  hideAlternatives();
  const messages = shown(), last = messages.at(-1);
  if (!problem && !running && last?.role === "user") problem = { text: () => strings.unanswered, retry: () => answer(last) };
  const nodes = [...messages.map(messageNode), ...(problem ? [problemNode()] : [])];
  const skipped = messages.findLast((message) => message.role === "assistant")?.skipped;
  if (skipped) nodes.splice(skipped, 0, make("p", { class: "note border" }, strings.skipped));
  following(() => $("messages").replaceChildren(...(nodes.length ? nodes : [welcomeNode()])));
  $("send").replaceChildren(icon(running ? "stop" : "send"));
  $("send").setAttribute("aria-label", running ? strings.stop : strings.send);
  $("send").title = running ? strings.stop : strings.send;
  $("send").disabled = !running && !$("input").value.trim();
  $("editing").hidden = edited === null;
}
function drawHistory() {
  const shown = [...chats.values()].sort((a, b) => b.updated - a.updated);
  $("nothing").hidden = shown.length > 0;
  $("history").replaceChildren(...shown.map((one) => {
    const title = (pathTo(one, one.leaf)[0] ?? one.messages[0]).content.slice(0, 80);
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
  drawControls();
  drawHistory();
  draw();
}
function drawControls() {
  $("sampling").replaceChildren(...Object.entries(CONTROLS).flatMap(([name, { min, max, step, off }]) => {
    const top = name === "max_tokens" ? Math.min(max, Math.max(min, server.context)) : max;
    const shown = () => (settings.sampling[name] === off ? strings.off : String(Math.min(top, settings.sampling[name])));
    const output = make("output", { for: name }, shown());
    const hint = make("small", { id: `${name}-hint` }, strings[`${name}Hint`]);
    const input = make("input", { type: "range", id: name, min, max: top, step, value: settings.sampling[name], "aria-describedby": hint.id });
    input.addEventListener("input", () => {
      settings.sampling[name] = Number(input.value);
      output.textContent = shown();
      saveSettings();
    });
    return [make("label", { for: name }, strings[name], output), input, hint];
  }));
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

