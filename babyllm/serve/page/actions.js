// What one can do.

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
async function rate(message, rating) {
  const rated = chat, said = spoken(pathTo(chat, message.id).slice(message.skipped), message.system);
  try {
    await call("feedback", { messages: said, rating, ...(message.response && { answer: message.response }) });
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
  $("system").value = systemShown();
  drawModel();
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
