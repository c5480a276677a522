// Conversations as files: in the messages form that `babyllm sft` reads, one a line, and as Markdown.

const titleOf = (one) => (pathTo(one, one.leaf)[0] ?? one.messages[0]).content.slice(0, 80);
function recordOf(one) {
  const system = one.system ? [{ role: "system", content: one.system }] : [];
  return {
    messages: [
      ...system,
      ...pathTo(one, one.leaf).map(({ role, content, reasoning, calls, answers }) => ({
        role,
        content,
        ...(reasoning && { reasoning_content: reasoning }),
        ...(calls?.length && { tool_calls: calls.map(toolCall) }),
        ...(answers && { tool_call_id: answers }),
      })),
    ],
  };
}
const linesOf = (all) => all.map((one) => `${JSON.stringify(recordOf(one))}\n`).join("");
function fenced(text, name = "") {
  // in a fence that is longer than any in the text
  const fence = "`".repeat(Math.max(3, ...(text.match(/`{3,}/g) ?? []).map((found) => found.length + 1)));
  return `${fence}${name}\n${text.replace(/\n$/, "")}\n${fence}`;
}
function markdownOf(one) {
  const parts = [`# ${titleOf(one).replace(/\s+/g, " ")}`];
  if (one.system) parts.push(`## ${strings.system}`, one.system);
  for (const { role, content, reasoning, calls } of pathTo(one, one.leaf)) {
    parts.push(`## ${strings.roles[role]}`);
    if (reasoning) parts.push(`<details><summary>${strings.reasoning}</summary>`, reasoning, "</details>");
    parts.push(
      content,
      ...(calls ?? []).filter(Boolean).map((call) => fenced(JSON.stringify(toolCall(call), null, 2), "json")),
    );
  }
  return `${parts.filter(Boolean).join("\n\n")}\n`;
}
function download(name, kind, text) {
  const url = URL.createObjectURL(new Blob([text], { type: `${kind};charset=utf-8` }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
const fileName = (one) =>
  titleOf(one)
    .slice(0, 40)
    .replace(/[\p{Cc}\\/:*?"<>|.\s]+/gu, " ")
    .trim() || "babyllm";
function exportOne(as) {
  if (!chat.messages.length) toast(strings.nothingToExport);
  else if (as === "markdown") download(`${fileName(chat)}.md`, "text/markdown", markdownOf(chat));
  else download(`${fileName(chat)}.jsonl`, "application/jsonl", linesOf([chat]));
}
function exportAll() {
  const all = [...chats.values()].sort((a, b) => a.updated - b.updated);
  if (all.length) download("babyllm.jsonl", "application/jsonl", linesOf(all));
  else toast(strings.nothingToExport);
}
