// Conversations from files: JSON objects with `messages`, one a line or in a list, as the export and data for `babyllm sft`
// have them.

const MAX_IMPORT = 16 * 1024 * 1024; // bytes
function recordsIn(text) {
  let all = null;
  try {
    all = JSON.parse(text);
  } catch {
    /* one a line */
  }
  if (all !== null) return Array.isArray(all) && !all[0]?.role ? all : [Array.isArray(all) ? { messages: all } : all];
  return text.split("\n").flatMap((line, i) => {
    if (!line.trim()) return [];
    try {
      return [JSON.parse(line)];
    } catch {
      throw new Error(strings.badLine(i + 1));
    }
  });
}
function textOf(content) {
  if (Array.isArray(content))
    return content
      .map((part) => part?.text)
      .filter((text) => typeof text === "string")
      .join("");
  return content ?? "";
}
function chatFrom(record, number) {
  const said = record?.messages,
    fail = (i) => {
      throw new Error(strings.badMessage(number, i + 1));
    };
  if (!Array.isArray(said) || !said.length) throw new Error(strings.noMessages(number));
  const one = { ...newChat(), system: "" };
  said.forEach((message, i) => {
    const { role, reasoning_content: reasoning, tool_calls: calls, tool_call_id: answers } = message ?? {},
      content = textOf(message?.content);
    if (typeof content !== "string") fail(i);
    if (i === 0 && ["system", "developer"].includes(role)) {
      one.system = content.toWellFormed();
      return;
    }
    if (!["user", "assistant", "tool"].includes(role)) fail(i);
    const made = newMessage(role, content.toWellFormed(), one.leaf);
    if (role === "assistant") Object.assign(made, { skipped: 0, note: "" });
    if (typeof reasoning === "string" && reasoning) made.reasoning = reasoning;
    if (typeof answers === "string") made.answers = answers;
    if (Array.isArray(calls) && calls.length) {
      made.calls = calls.map(({ id, function: called } = {}) => ({
        id: String(id ?? ""),
        name: String(called?.name ?? ""),
        arguments: argumentsOf(called),
      }));
    }
    one.messages.push(made);
    one.leaf = made.id;
  });
  if (!one.messages.length) throw new Error(strings.noMessages(number));
  return one;
}
const argumentsOf = (called) =>
  typeof called?.arguments === "string" ? called.arguments : JSON.stringify(called?.arguments ?? {});
async function importFile(file) {
  if (file.size > MAX_IMPORT) throw new Error(strings.tooLarge(kilobytes(file.size), kilobytes(MAX_IMPORT)));
  const records = recordsIn(decoded(await file.arrayBuffer())),
    made = [],
    wrong = [];
  records.forEach((record, i) => {
    try {
      made.push(chatFrom(record, i + 1));
    } catch (error) {
      wrong.push(error.message);
    }
  });
  if (!made.length) throw new Error(wrong[0] ?? strings.noMessages(1));
  return { made, wrong };
}
function keep(made) {
  // how many of the conversations there was room for
  for (const [i, one] of made.entries()) {
    // What is there already keeps its place: probabilities of tokens make no room for what is opened.
    if (write(stores.lasting, CHAT_KEY + one.id, Object.assign(one, { updated: Date.now() + i })))
      chats.set(one.id, one);
    else {
      erase(stores.lasting, CHAT_KEY + one.id);
      return i;
    }
  }
  return made.length;
}
async function importFiles(files) {
  const lines = [];
  let first = null;
  for (const file of files) {
    try {
      const { made, wrong } = await importFile(file),
        n = keep(made);
      if (n) first ??= made[0];
      lines.push(strings.imported(n), ...(n < made.length ? [strings.noRoom(made.length - n)] : []));
      if (wrong.length) lines.push(strings.leftOut(wrong.length, wrong[0]));
    } catch (error) {
      lines.push(`${file.name}: ${error.message}`);
    }
  }
  if (first && !running) show(first);
  else drawHistory();
  toast(lines.join(" "));
}
