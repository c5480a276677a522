// What is kept in the browser: settings, conversations, and what was typed and not yet sent.

// A browser may refuse storage altogether; the page then works until it is closed.
function storage(name) {
  try { const store = window[name]; store.length; return store; } catch { return null; }
}
const stores = { lasting: storage("localStorage"), tab: storage("sessionStorage") };
const unstored = new Map();
const keysOf = (store) => (store ? Object.keys(store) : [...unstored.keys()]);
function read(store, key) { try { return JSON.parse(store ? store.getItem(key) : unstored.get(key) ?? null); } catch { return null; } }
function write(store, key, value) {
  try {
    if (store) store.setItem(key, JSON.stringify(value)); else unstored.set(key, JSON.stringify(value));
    return true;
  } catch { return false; }
}
function erase(store, key) { if (store) store.removeItem(key); else unstored.delete(key); }
// The API key is kept for the tab alone, as it was typed.
const apiKey = () => (stores.tab ? stores.tab.getItem("babyllm.key") : unstored.get("babyllm.key")) || null;
function keepKey(key) { if (stores.tab) stores.tab.setItem("babyllm.key", key); else unstored.set("babyllm.key", key); }

const CONTROLS = {
  temperature: { min: 0, max: 2, step: 0.05, value: 0.8 },
  top_p: { min: 0.05, max: 1, step: 0.05, value: 1, off: 1 },
  top_k: { min: 0, max: 200, step: 1, value: 50, off: 0 },
  max_tokens: { min: 16, max: 2048, step: 16, value: 512 },
};
const defaults = () => Object.fromEntries(Object.entries(CONTROLS).map(([name, control]) => [name, control.value]));
const settings = { language: "", theme: "", system: "", probabilities: false, model: "", isComparing: false, other: {},
                   ...read(stores.lasting, "babyllm.settings") };
settings.sampling = { ...defaults(), ...settings.sampling };
// The right side of a comparison; a system prompt of null is that of the conversation.
settings.other = { model: "", system: null, ...settings.other, sampling: { ...defaults(), ...settings.other?.sampling } };
const saveSettings = () => write(stores.lasting, "babyllm.settings", settings);

// A conversation is a tree, in which a question that was edited and an answer that was asked for again stand beside the first:
// {id, updated, system, leaf, messages: [{id, parent, role, content, ...}]}. `parent` is the id of the message before, null of a
// first one; the messages stand in the order they were made; `leaf` is the last one on the screen. Messages are only ever added or
// made longer, so that two tabs can each write what both have. Two answers of a comparison have one `pair`, and `side` 0 or 1.
const CHAT_KEY = "babyllm.chat.";
const chats = new Map();
const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
const newChat = () => ({ id: newId(), updated: 0, system: settings.system, leaf: null, messages: [] });
const newMessage = (role, content, parent) => ({ id: newId(), parent, role, content });
const find = (one, id) => one.messages.find((message) => message.id === id);
function pathTo(one, id) {
  const byId = new Map(one.messages.map((message) => [message.id, message])), path = [];
  for (let at = byId.get(id); at && path.length < one.messages.length; at = byId.get(at.parent)) path.push(at);
  return path.reverse();
}
// What stands beside a message, itself included; the two answers of a comparison are one place, which the left one stands for.
function besides(one, message) {
  const all = one.messages.filter((other) => other.parent === message.parent);
  return all.filter((other) => !other.pair || !all.some(({ pair, side }) => pair === other.pair && side < other.side));
}
function turnTo(one, message) {                                  // with the newest of what followed it
  one.leaf = message.id;
  for (let next; (next = one.messages.findLast((other) => other.parent === one.leaf)); ) one.leaf = next.id;
}
function readChat(key) {
  const one = read(stores.lasting, key);
  if (!Array.isArray(one?.messages) || !one.messages.length) return null;
  if (!one.messages.every((message) => typeof message?.content === "string")) return null;
  one.system ??= "";
  one.messages.forEach((message, i) => {                         // once, a conversation was a list
    message.id ??= String(i);
    if (message.parent === undefined) message.parent = i ? one.messages[i - 1].id : null;
  });
  if (!find(one, one.leaf)) one.leaf = one.messages.at(-1).id;
  return one;
}
function load() {
  chats.clear();
  for (const key of keysOf(stores.lasting).filter((name) => name.startsWith(CHAT_KEY))) {
    const one = readChat(key);
    if (one) chats.set(one.id, one);
  }
}
const lengthOf = (message) => message && message.content.length + (message.reasoning?.length ?? 0);
function adopt(one) {                                            // what another tab has added
  for (const theirs of readChat(CHAT_KEY + one.id)?.messages ?? []) {
    const mine = find(one, theirs.id);
    if (!mine) one.messages.push(theirs); else if (lengthOf(theirs) > lengthOf(mine)) Object.assign(mine, theirs);
  }
}
function putBack(key) {                                          // what another tab, writing at the same time, wrote over
  const stored = readChat(key), mine = stored && chats.get(stored.id);
  if (mine?.messages.some((message) => !(lengthOf(find(stored, message.id)) >= lengthOf(message)))) store(mine);
}
function store(one) {                                            // whether there was room for it
  const put = (each) => { adopt(each); return write(stores.lasting, CHAT_KEY + each.id, each); };
  one.updated = Math.max(Date.now(), ...[...chats.values()].filter((other) => other !== one).map((other) => other.updated + 1));
  chats.set(one.id, one);
  for (const oldest of [...chats.values()].sort((a, b) => a.updated - b.updated)) {      // their probabilities make room first
    if (put(one)) return true;
    for (const message of oldest.messages) if (!partOf(message)) delete message.tokens;
    if (oldest !== one) put(oldest);
  }
  return put(one);
}
