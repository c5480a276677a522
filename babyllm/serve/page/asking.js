// Answers: what is asked of the server, of one model or of two at once, and what comes back.

// The answers being written, as `running`: {chat, asked, former, parts, stopper}.
// A part is {message, side, isBegun, isContinued, isDone, clock, failure}.
const partOf = (message) => running?.parts.find((part) => part.message === message);
const isBegun = (run) => run.parts.some((part) => part.isBegun);
// Whom a question goes to: {model, sampling, system}, with `at` 0 or 1 for the sides of a comparison.
const left = () => ({ model: served(settings.model), sampling: settings.sampling, system: chat.system });
const right = () => ({
  model: served(settings.other.model),
  sampling: settings.other.sampling,
  system: settings.other.system ?? chat.system,
});
const sides = () => (settings.isComparing ? [left(), right()] : [left()]);

function toolCall({ id, name, arguments: given }) {
  return { id, type: "function", function: { name, arguments: given } };
}
function spoken(messages, system = chat.system) {
  return [
    ...(system ? [{ role: "system", content: system }] : []),
    ...messages.map(({ role, content, calls, answers }) => ({
      role,
      content,
      ...(calls?.length && { tool_calls: calls.map(toolCall) }),
      ...(answers && { tool_call_id: answers }),
    })),
  ];
}
const MOST_MESSAGES = 254; // that the server takes, a system prompt beside them
function requestOf({ message, side, isContinued }, before) {
  const messages = spoken(before.slice(message.skipped), side.system);
  const request = {
    model: side.model ?? undefined,
    ...side.sampling,
    stream: true,
    logprobs: true,
    top_logprobs: 5,
    stream_options: { include_usage: true },
    ...(server.storedDays && { metadata: { session_id: chat.id } }),
  };
  if (!isContinued) return { ...request, messages };
  const reasoning = message.reasoning ? { reasoning_content: message.reasoning } : {};
  const unfinished = { role: "assistant", content: message.content, ...reasoning };
  return {
    ...request,
    messages: [...messages, unfinished],
    continue_final_message: true,
    add_generation_prompt: false,
  };
}
async function ask(part, before, signal) {
  // What no longer fits into the model's context is left out from the beginning, an exchange at a time.
  const { message, side } = part;
  message.skipped = Math.max(message.skipped ?? 0, 2 * Math.ceil((before.length - MOST_MESSAGES) / 2));
  for (;;) {
    const { model } = side;
    try {
      return await call("chat/completions", requestOf(part, before), signal);
    } catch (error) {
      if (error.status === 404 && model) {
        // the server may run another model than when it was met
        await meetServer({ isQuiet: true });
        side.model = served(model);
        if (side.model !== model && !signal.aborted) continue;
      }
      if (error.code !== "context_length_exceeded" || message.skipped + 2 >= before.length) throw error;
      message.skipped += 2;
    }
  }
}
function take(message, event) {
  const choice = event.choices?.[0],
    delta = choice?.delta ?? {},
    reasoning = delta.reasoning_content ?? delta.reasoning;
  message.content += delta.content ?? "";
  if (event.id) message.response = event.id; // by which a rating names it
  if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
  for (const { index = 0, id, function: called } of delta.tool_calls ?? []) {
    message.calls ??= [];
    const known = (message.calls[index] ??= { id: "", name: "", arguments: "" });
    known.id ||= id ?? "";
    known.name += called?.name ?? "";
    known.arguments += called?.arguments ?? "";
  }
  for (const item of message.tokens ? (choice?.logprobs?.content ?? []) : []) {
    const pair = (one) => [tokenText(one), Math.round(one.logprob * 1e4) / 1e4];
    message.tokens.push([...pair(item), (item.top_logprobs ?? []).map(pair)]);
  }
  return choice?.finish_reason ?? null;
}
const sizeOf = ({ content, reasoning, calls, tokens }) =>
  content.length + (reasoning?.length ?? 0) + (tokens?.length ?? 0) + (calls ? JSON.stringify(calls).length : 0);
const hasText = ({ content, reasoning, calls }) => Boolean(content || reasoning || calls?.length);
function begin({ chat: one, asked }, part) {
  // from now on the answer is one of the conversation's
  const { message } = part;
  if (!find(one, asked.id)) one.messages.push(asked);
  one.messages.push(message);
  // Of two, the left one is read on from, unless it is the last to begin and the other was chosen.
  if (!message.pair || message.side === 0 || find(one, one.leaf)?.pair !== message.pair) one.leaf = message.id;
  part.isBegun = true;
  if (running?.parts.includes(part)) draw();
}
// The answer being written is drawn again when the browser has had at least as long for other things as drawing it took.
function drawing(message) {
  let isWaiting = false,
    pause = 0;
  const drawAnswer = () => {
    isWaiting = false;
    if (!partOf(message)) return;
    const began = performance.now();
    following(() => {
      const article = $("messages").querySelector(`.writing[data-id="${message.id}"]`);
      if (article) fillMessage(article, message);
    });
    pause = performance.now() - began;
  };
  return () => {
    if (isWaiting) return;
    isWaiting = true;
    setTimeout(() => requestAnimationFrame(drawAnswer), pause > 8 ? pause : 0);
  };
}
async function receive(run, part, before) {
  const { message, clock, side } = part,
    drawSoon = drawing(message);
  let finish = null,
    saved = 0;
  for await (const event of events(await ask(part, before, run.stopper.signal))) {
    if (event.error) throw new Refused(500, event.error);
    const size = sizeOf(message);
    finish = take(message, event) ?? finish;
    if (sizeOf(message) > size) {
      if (!clock.n) message.note = "cut";
      clock.last = performance.now();
      clock.first ||= clock.last;
      clock.n += 1;
    }
    if (event.usage) {
      clock.n = event.usage.completion_tokens;
      message.isCrowded = event.usage.total_tokens > 0.75 * server.context; // the next answer needs room, too
    }
    if (!part.isBegun && (running === run || isBegun(run)) && (hasText(message) || finish)) begin(run, part);
    drawSoon();
    if (part.isBegun && clock.last - saved > 1000) {
      saved = clock.last;
      save(run.chat);
    }
  }
  if (!finish && !part.isBegun) throw new Refused(502);
  if (finish) message.note = finish === "length" ? (clock.n < side.sampling.max_tokens ? "crowded" : "limit") : "";
}
async function writePart(run, part, before) {
  part.clock = { began: performance.now(), first: 0, last: 0, n: 0 };
  try {
    await receive(run, part, before);
  } catch (error) {
    part.failure = error;
  }
  const {
      clock: { began, first, last, n },
      message,
    } = part,
    isWhole = !part.isContinued;
  const tokens = isWhole ? Math.max(n, message.tokens.length) : n,
    isLong = tokens > 8 && last > first;
  if (first) {
    // few tokens may have come in one packet
    const speed = (1000 * (isLong ? tokens - 1 : tokens)) / (last - (isLong ? first : began)),
      former = isWhole ? 0 : (message.stats?.n ?? 0);
    message.stats = { n: former + tokens, wait: (first - began) / 1000, speed };
  }
  part.isDone = true;
  if (run.parts.length > 1 && running === run) draw();
}
async function start(asked, former, parts) {
  const before = [...pathTo(chat, asked.parent), asked],
    run = { chat, asked, former, parts, stopper: new AbortController() };
  problem = null;
  running = run;
  announce(strings.writing);
  draw();
  toEnd();
  await Promise.all(parts.map((part) => writePart(run, part, before)));
  end(run);
}
const failed = ({ failure }) => failure && failure.name !== "AbortError";
function end(run) {
  const { asked, parts } = run;
  if (isBegun(run)) save(run.chat);
  if (running !== run) return; // another conversation is on the screen
  running = null;
  const isDraft = !find(chat, asked.id),
    broken = parts.find(failed);
  if (broken)
    problem = explain(broken.failure, retryOf(run, broken, isDraft), {
      edit: () => (isDraft ? $("input").focus() : startEdit(asked)),
      isBegun: broken.isBegun,
    });
  // An edited question without an answer goes back into the box.
  if (isDraft) startEdit(find(chat, run.former), asked.content);
  else draw();
  if (!server.model && !problem) meetServer();
  announce(isBegun(run) ? parts.map(({ message }) => message.content).join("\n") : ""); // an alert is read by itself
}
function retryOf(run, broken, isDraft) {
  if (broken.isContinued) return () => goOn(broken.message);
  if (isDraft) return () => say($("input").value);
  if (!isBegun(run)) return () => answer(run.asked);
  // Of two answers that which failed is asked for again, beside the other.
  const again = () =>
    run.parts.filter(failed).map(({ message, side }) => newPart(side, run.asked, message.skipped, message));
  return run.parts.length > 1 && !broken.isBegun ? () => start(run.asked, null, again()) : regenerate;
}
function newPart(side, asked, skipped, { pair, side: at } = {}) {
  const { model, sampling, system } = side,
    by = { model, ...sampling };
  const message = { ...newMessage("assistant", "", asked.id), tokens: [], skipped, note: "cut", by };
  if (pair) Object.assign(message, { pair, side: at, system });
  return { message, side };
}
function answer(asked, former = null) {
  // `former`: the id of the question that it was edited from
  const previous = pathTo(chat, asked.parent).findLast(({ role }) => role === "assistant"),
    all = sides();
  const skipped = previous ? (previous.skipped ?? 0) + (previous.isCrowded ? 2 : 0) : 0,
    pair = all.length > 1 ? newId() : null;
  return start(
    asked,
    former,
    all.map((side, at) => newPart(side, asked, skipped, { pair, side: at })),
  );
}
// An answer that stopped at a limit, by the button or with the connection can go on where it is.
function canGoOn({ role, content, reasoning, note, calls, parent, skipped }) {
  if (role !== "assistant" || !note || !(content || reasoning) || calls?.length) return false;
  return note !== "crowded" || pathTo(chat, parent).length > (skipped ?? 0) + 2; // there is an exchange to leave out
}
function goOn(message) {
  if (running) return;
  const side = { ...(message.side === 1 ? right() : left()), ...(message.by && { model: served(message.by.model) }) };
  if (message.pair) side.system = message.system;
  const asked = find(chat, message.parent),
    n_before = pathTo(chat, asked.id).length;
  if (message.note === "crowded" && message.skipped + 2 < n_before) message.skipped += 2;
  $("scroller").focus({ preventScroll: true });
  start(asked, null, [{ message, side, isBegun: true, isContinued: true }]);
}
