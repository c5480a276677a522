// The server: requests, events, and what its refusals mean.

const server = { model: null, models: [], title: "", feedback: false, storedDays: null, context: Infinity, hint: "welcomeHint", examples: null };
const served = (name) => (server.models.includes(name) ? name : server.model);
class Refused extends Error {
  constructor(status, { message = "", code = "" } = {}) { super(message); this.status = status; this.code = code; }
}
async function call(path, body = null, signal = null) {
  const headers = { "Content-Type": "application/json" };
  const key = apiKey();
  if (key && /^[ -~]+$/.test(key)) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(`v1/${path}`, body ? { method: "POST", headers, body: JSON.stringify(body), signal } : { headers });
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(response.status, said.error);
}
async function* events(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (done ? "\n" : decoder.decode(value, { stream: true }))).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
    if (done) return;
  }
}
// What a refusal is called on the page, and what helps: to try again, to change what was said, or nothing that can be done here.
const REFUSALS = {
  context_length_exceeded: ["tooLong", "edit"], body_too_large: ["tooLong", "edit"], no_chat_template: ["noChat", ""],
  invalid_api_key: ["locked", "retry"], queue_full: ["busy", "retry"], loading: ["loading", "retry"],
  shutting_down: ["closing", "retry"], engine_dead: ["dead", "retry"], model_not_found: ["otherModel", "retry"],
  host_not_allowed: ["strangeHost", "retry"], feedback_off: ["noFeedback", ""],
};
const BY_STATUS = { 401: REFUSALS.invalid_api_key, 408: ["slow", "retry"], 413: REFUSALS.body_too_large, 429: REFUSALS.queue_full };
function refusal({ status, code }) {                             // the name of a string, what helps, whether that says all
  const known = REFUSALS[code] ?? BY_STATUS[status];
  if (known) return [...known, code in REFUSALS];
  return status < 500 ? ["refused", "retry edit", false] : ["failed", "retry", false];
}
function explain(error, retry, { edit = null, isBegun = false } = {}) {
  if (!(error instanceof Refused)) return { retry, text: () => (isBegun ? strings.lost : strings.offline) };
  const [name, help, isKnown] = refusal(error), locked = name === "locked", hadKey = locked && apiKey();
  return { locked, text: () => strings[hadKey ? "wrongKey" : name], detail: isKnown || locked ? "" : error.message,
           retry: help.includes("retry") ? retry : null, edit: help.includes("edit") ? edit : null };
}
async function meetServer({ isQuiet = false } = {}) {
  try {
    const known = await (await call("models")).json(), models = known.data.map(({ id }) => id);
    const about = { name: models[0], feedback: false, stored_days: null, context: Infinity, chat: true, has_learned_chat: true, ...known.babyllm };
    const hint = !about.chat ? "noChat" : about.has_learned_chat ? "welcomeHint" : "baseModel";
    const examples = Array.isArray(about.examples) && about.examples.length ? about.examples.map(String) : null;
    const now = { model: models[0], models, title: about.name, feedback: about.feedback, storedDays: about.stored_days, context: about.context, hint, examples };
    const isSame = JSON.stringify(now) === JSON.stringify(Object.fromEntries(Object.keys(now).map((key) => [key, server[key]])));
    if (server.model && server.model !== models[0]) toast(strings.renamed(about.name));
    Object.assign(server, now);
    drawModel();
    if (problem?.retry === meetServer) problem = null; else if (isSame && isQuiet) return;
    drawControls();
  } catch (error) {
    if (isQuiet) return;
    if (!running) problem = explain(error, meetServer);
  }
  draw();
}
