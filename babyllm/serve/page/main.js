// Wiring.
for (const node of document.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
const applyTheme = () => { document.documentElement.dataset.theme = settings.theme; };
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.stopper.abort(); else { say($("input").value); $("input").focus(); }
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  // Enter that picks a word in a Chinese input method is not meant for the page; Safari marks it by key code 229 alone.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  say($("input").value);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("settings").open || event.isComposing) return;
  if ($("files").matches(":popover-open")) return;
  if (!$("alternatives").hidden) hideAlternatives();
  else if (document.body.classList.contains("side-open")) $("menu").click();
  else if (running) running.stopper.abort();
  else if (edited !== null) cancelEdit();
});
$("cancel-edit").addEventListener("click", cancelEdit);
$("new").addEventListener("click", () => { show(newChat()); $("input").focus(); });
$("menu").addEventListener("click", () => {
  const isOpen = document.body.classList.toggle("side-open");
  $("menu").setAttribute("aria-expanded", String(isOpen));
  (isOpen ? $("new") : $("menu")).focus();
});
$("shade").addEventListener("click", () => $("menu").click());
$("language").addEventListener("click", () => {
  settings.language = strings === STRINGS.zh ? "en" : "zh";
  saveSettings();
  drawStrings();
});
$("theme").addEventListener("click", () => {
  const isDark = settings.theme ? settings.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  settings.theme = isDark ? "light" : "dark";
  saveSettings();
  applyTheme();
});
$("probabilities").addEventListener("click", () => {
  settings.probabilities = !settings.probabilities;
  saveSettings();
  showProbabilities();
  draw();
});
const showProbabilities = () => $("probabilities").setAttribute("aria-pressed", String(settings.probabilities));
$("open-settings").addEventListener("click", () => openSettings());
$("compare").addEventListener("click", toggleComparison);
$("close-settings").addEventListener("click", () => $("settings").close());
$("settings").addEventListener("click", (event) => { if (event.target === $("settings") && event.offsetX < 0) $("settings").close(); });
$("system").addEventListener("input", () => setSystem($("system").value));
$("reset").addEventListener("click", resetSettings);
const menu = (id, run) => $(id).addEventListener("click", () => { $("files").hidePopover(); run(); });
menu("export-markdown", () => exportOne("markdown"));
menu("export-json", () => exportOne("json"));
menu("export-all", exportAll);
menu("import", () => $("import-file").click());
$("attach").addEventListener("click", () => $("attach-file").click());
for (const [id, run] of [["import-file", importFiles], ["attach-file", attach]]) {
  $(id).addEventListener("change", () => { run([...$(id).files]); $(id).value = ""; });
}
// Files that are dropped anywhere, or pasted, are put into the box.
const hasFiles = (data) => data?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!hasFiles(event.dataTransfer)) return;
  event.preventDefault();
  $("drop").hidden = $("settings").open;
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", (event) => {
  if (!hasFiles(event.dataTransfer)) return;
  event.preventDefault();
  $("drop").hidden = true;
  if (!$("settings").open) attach([...event.dataTransfer.files]);
});
$("input").addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length || event.clipboardData.types.includes("text/plain")) return;
  event.preventDefault();
  attach([...event.clipboardData.files]);
});
$("down").addEventListener("click", toEnd);
$("scroller").addEventListener("scroll", () => { hideAlternatives(); $("down").hidden = isAtEnd(); }, { passive: true });
addEventListener("pagehide", () => { if (running && isBegun(running)) save(running.chat); });
function reload() {                                              // another tab wrote, deleted or cleared
  if (running) return;
  load();
  chat = chats.get(chat.id) ?? chat;
  drawHistory();
  draw();
}
addEventListener("storage", (event) => {
  if (event.key && !event.key.startsWith(CHAT_KEY)) return;
  if (event.newValue) putBack(event.key);
  reload();
});
addEventListener("pageshow", (event) => { if (event.persisted) reload(); });      // the browser's way back to a page it kept
addEventListener("focus", () => { if (!running) meetServer({ isQuiet: true }); });

applyTheme();
showProbabilities();
load();
chat = chats.get(read(stores.tab, "babyllm.current")) ?? newChat();
$("input").value = read(stores.tab, "babyllm.draft") ?? "";
drawStrings();
show(chat);
grow();
meetServer();
