// What one can do.

function spoken(messages) {
  const system = chat.system ? [{ role: "system", content: chat.system }] : [];
  return [...system, ...messages.map(({ role, content }) => ({ role, content }))];
}
const MOST_MESSAGES = 254;                                       // that the server takes, a system prompt beside them
async function ask(message, before, signal) {
  // What no longer fits into the model's context is left out from the beginning, an exchange at a time.
  message.skipped = Math.max(message.skipped, 2 * Math.ceil((before.length - MOST_MESSAGES) / 2));
  for (;;) {
    const { model } = server;
    try {
      const request = { model: model ?? undefined, ...settings.sampling, stream: true, logprobs: true, top_logprobs: 5,
                        stream_options: { include_usage: true } };
      return await call("chat/completions", { ...request, messages: spoken(before.slice(message.skipped)) }, signal);
    } catch (error) {
      if (error.status === 404 && model) {                       // the server may run another model than when it was met
        await meetServer({ isQuiet: true });
        if (server.model !== model && !signal.aborted) continue;
      }
      if (error.code !== "context_length_exceeded" || message.skipped + 2 >= before.length) throw error;
      message.skipped += 2;
    }
  }
}
function take(message, event) {
  const choice = event.choices?.[0];
  message.content += choice?.delta?.content ?? "";
  for (const item of choice?.logprobs?.content ?? []) {
    const pair = (one) => [tokenText(one), Math.round(one.logprob * 1e4) / 1e4];
    message.tokens.push([...pair(item), (item.top_logprobs ?? []).map(pair)]);
  }
  return choice?.finish_reason ?? null;
}
function begin({ chat: one, asked, message }) {                     // from now on the answer is one of the conversation's
  if (!find(one, asked.id)) one.messages.push(asked);
  one.messages.push(message);
  one.leaf = message.id;
  running.isBegun = true;
  draw();
}
// The answer being written is drawn again when the browser has had at least as long for other things as drawing it took.
function drawing(message) {
  let isWaiting = false, pause = 0;
  const drawAnswer = () => {
    isWaiting = false;
    if (running?.message !== message) return;
    const began = performance.now();
    following(() => { const body = $("messages").querySelector(".writing .body"); if (body) fillBody(body, message); });
    pause = performance.now() - began;
  };
  return () => {
    if (isWaiting) return;
    isWaiting = true;
    setTimeout(() => requestAnimationFrame(drawAnswer), pause > 8 ? pause : 0);
  };
}
async function answer(asked, former = null) {              // `former`: the id of the question that it was edited from
  const before = [...pathTo(chat, asked.parent), asked], previous = before.at(-2), longest = settings.sampling.max_tokens;
  const skipped = previous ? previous.skipped + (previous.isCrowded ? 2 : 0) : 0;
  const message = { ...newMessage("assistant", "", asked.id), tokens: [], skipped, note: "cut" };
  const run = { chat, asked, former, message, isBegun: false, stopper: new AbortController() }, drawSoon = drawing(message);
  const clock = { began: performance.now(), first: 0, last: 0, n: 0 };
  let finish = null, saved = 0, failure = null;
  problem = null;
  running = run;
  announce(strings.writing);
  draw();
  toEnd();
  try {
    for await (const event of events(await ask(message, before, run.stopper.signal))) {
      if (event.error) throw new Refused(500, event.error);
      const size = message.content.length + message.tokens.length;
      finish = take(message, event) ?? finish;
      if (message.content.length + message.tokens.length > size) { clock.last = performance.now(); clock.first ||= clock.last; clock.n += 1; }
      if (event.usage) {
        clock.n = event.usage.completion_tokens;
        message.isCrowded = event.usage.total_tokens > 0.75 * server.context;      // the next answer needs room, too
      }
      if (running === run && !run.isBegun && (message.content || finish)) begin(run);
      drawSoon();
      if (message.content && clock.last - saved > 1000) { saved = clock.last; save(run.chat); }
    }
    if (!finish && !run.isBegun) throw new Refused(502);
    if (finish) message.note = finish === "length" ? (clock.n < longest ? "crowded" : "limit") : "";
  } catch (error) { failure = error; }
  end(run, clock, failure);
}
function end(run, { began, first, last, n }, failure) {
  const { message, asked } = run, tokens = Math.max(n, message.tokens.length);
  const isLong = tokens > 8 && last > first;                     // few tokens may have come in one packet
  if (first) {
    const speed = (1000 * (isLong ? tokens - 1 : tokens)) / (last - (isLong ? first : began));
    message.stats = { n: tokens, wait: (first - began) / 1000, speed };
  }
  if (run.isBegun) save(run.chat);
  if (running !== run) return;                                   // another conversation is on the screen
  running = null;
  const isDraft = !find(chat, asked.id);
  if (failure && failure.name !== "AbortError") {
    const retry = run.isBegun ? regenerate : isDraft ? () => say($("input").value) : () => answer(asked);
    problem = explain(failure, retry, { edit: () => (isDraft ? $("input").focus() : startEdit(asked)), isBegun: run.isBegun });
  }
  // An edited question without an answer goes back into the box.
  if (isDraft) startEdit(find(chat, run.former), asked.content); else draw();
  if (!server.model && !problem) meetServer();
  announce(run.isBegun ? message.content : "");                  // an alert is read by itself
}
function say(text) {
  if (running || !text.trim()) return;
  const last = pathTo(chat, chat.leaf).at(-1), former = edited;
  // It stands beside what it was before it was edited, or beside a question that was never answered.
  const parent = former !== null ? find(chat, former).parent : last?.role === "user" ? last.parent : chat.leaf;
  const asked = newMessage("user", text.toWellFormed(), parent);
  if (former === null) {
    chat.messages.push(asked);
    chat.leaf = asked.id;
    save(chat);
  }
  closeEdit(former === null ? "" : stashed);
  answer(asked, former);
}
function regenerate() {
  if (running) return;
  const last = pathTo(chat, chat.leaf).at(-1);
  $("scroller").focus({ preventScroll: true });
  answer(last.role === "user" ? last : find(chat, last.parent));
}
let stashed = "";                                                // what was in the box when an older message came into it
function startEdit(message, text = message.content) {
  if (edited === null) stashed = $("input").value;
  edited = message.id;
  $("input").value = text;
  draw();
  grow();
  $("input").focus();
}
function closeEdit(text) {
  edited = null;
  stashed = "";
  $("input").value = text;
  grow();
}
function cancelEdit() {
  problem = null;
  closeEdit(stashed);
  draw();
  $("input").focus();
}
async function rate(index, rating) {
  const rated = chat, path = pathTo(chat, chat.leaf), message = path[index];
  try {
    await call("feedback", { messages: spoken(path.slice(message.skipped, index + 1)), rating });
    message.rating = rating;
    save(rated);
    draw();
    toast(strings.thanks);
  } catch (error) { toast(explain(error).text()); }
}
function save(one) {
  if (!one.messages.length || (chats.get(one.id) !== one && one !== chat)) return;      // a deleted one stays deleted
  if (!store(one)) toast(strings.full);
  drawHistory();
}
function show(one) {
  running?.stopper.abort();
  running = problem = edited = null;
  chat = one;
  write(stores.tab, "babyllm.current", chat.id);
  $("system").value = chat.system;
  document.body.classList.remove("side-open");
  $("menu").setAttribute("aria-expanded", "false");
  drawHistory();
  draw();
  toEnd();
}
function remove(one) {
  chats.delete(one.id);
  if (one === chat) show(newChat());
  erase(stores.lasting, CHAT_KEY + one.id);
  drawHistory();
  toast(strings.removed, strings.undo, () => { chats.set(one.id, one); save(one); show(one); });
}
