"use strict";
// Every text of a record reaches the page as text: textContent or value, never markup.
const STRINGS = {
  en: { search: "Search texts", status: "Status", language: "Language", task: "Task", low: "Score from", high: "to",
    records: "Records", earlier: "← Earlier", later: "Later →", menu: "List of records", reject: "Reject", keep: "Keep",
    edit: "Edit", json: "JSON", cancel: "Cancel", save: "Save", previous: "Previous record", next: "Next record",
    keys: "Keys: ← → or H L leaf · Y keep · N reject · the same key again takes it back · E edit · J JSON · / search",
    other: "中文", any: "any", statuses: { "": "All", open: "Open", keep: "Kept", reject: "Rejected", edited: "Mended" },
    languages: { zh: "Chinese", en: "English", other: "Other" }, allTasks: "All tasks", noTask: "without a task",
    total: (n, all) => `${n} of ${all} records`, nothing: "No record fits the filters.",
    progress: (keep, reject, edited) => `${keep} kept · ${reject} rejected · ${edited} mended`,
    place: (file, line) => `Line ${line} of ${file}`, score: (score) => `score ${score}`, mended: "mended",
    whole: (n) => `Show all ${n} characters`, moreValues: (n) => `${n} more values: see JSON`,
    broken: "This line is not a JSON object. It can be rejected, or replaced by one with JSON.",
    noToken: "This address has no token: open the one that the command printed.",
    away: "The server does not answer. Is the command still running? Nothing that was saved is lost.",
    leave: "Save or cancel the edit first.", empty: "empty" },
  zh: { search: "搜索文本", status: "状态", language: "语言", task: "任务", low: "分数不低于", high: "不高于",
    records: "记录", earlier: "← 上一页", later: "下一页 →", menu: "记录列表", reject: "拒绝", keep: "保留",
    edit: "编辑", json: "JSON", cancel: "取消", save: "保存", previous: "上一条", next: "下一条",
    keys: "按键：← → 或 H L 翻页 · Y 保留 · N 拒绝 · 再按一次撤销 · E 编辑 · J JSON · / 搜索",
    other: "English", any: "不限", statuses: { "": "全部", open: "未处理", keep: "已保留", reject: "已拒绝", edited: "已修改" },
    languages: { zh: "中文", en: "英文", other: "其他" }, allTasks: "全部任务", noTask: "无任务",
    total: (n, all) => `共 ${all} 条，符合 ${n} 条`, nothing: "没有符合条件的记录。",
    progress: (keep, reject, edited) => `保留 ${keep} · 拒绝 ${reject} · 修改 ${edited}`,
    place: (file, line) => `第 ${line} 行 · ${file}`, score: (score) => `分数 ${score}`, mended: "已修改",
    whole: (n) => `显示全部 ${n} 个字符`, moreValues: (n) => `另有 ${n} 个值，见 JSON`,
    broken: "这一行不是 JSON 对象。可以拒绝，也可以用 JSON 替换。",
    noToken: "地址中没有令牌，请打开命令打印的地址。",
    away: "服务器没有响应。命令还在运行吗？已保存的内容不会丢失。",
    leave: "请先保存或取消编辑。", empty: "空" },
};
const PAGE = 50, MAX_MARKS = 300, CHUNK = 10000;
const $ = (selector) => document.querySelector(selector);
const stored = (() => { try { return sessionStorage; } catch { return null; } })();

let locale = navigator.language.startsWith("zh") ? "zh" : "en";
let token = "", summary = null, rows = [], at = 0, total = 0, position = 0, record = null, mode = "read", asked = 0;

function make(tag, text = "", classes = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = classes;
  return element;
}

// ---- requests

async function ask(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch { throw new Error(STRINGS[locale].away); }
  if (response.status === 401) throw new Error(STRINGS[locale].noToken);
  const value = await response.json();
  if (!response.ok) throw new Error(value.error?.message ?? String(response.status));
  return value;
}

async function tried(work) {
  try {
    $("#problem").hidden = true;
    return await work();
  } catch (error) {
    $("#problem").textContent = error.message;
    $("#problem").hidden = false;
    return undefined;
  }
}

function query() {
  const chosen = new URLSearchParams({ at: String(at), n: String(PAGE) });
  for (const name of ["text", "status", "language", "low", "high"])
    if ($(`#${name}`).value.trim()) chosen.set(name, $(`#${name}`).value.trim());
  if ($("#task").value) chosen.set("task", $("#task").value.slice(1));
  return chosen;
}

async function loadList() {
  const mine = ++asked;
  const found = await ask(`api/records?${query()}`);
  if (mine !== asked) return false;
  ({ rows, total, at } = found);
  Object.assign(summary, { keep: found.keep, reject: found.reject, edited: found.edited });
  showList();
  return true;
}

async function go(to) {
  if (mode !== "read") return void tried(() => { throw new Error(STRINGS[locale].leave); });
  await tried(async () => {
    position = Math.max(0, Math.min(to, total - 1));
    if (position < at || position >= at + rows.length) {
      at = Math.floor(position / PAGE) * PAGE;
      if (!await loadList()) return;
    }
    const row = rows[position - at];
    const mine = ++asked;
    const found = row ? await ask(`api/record?id=${row.id}`) : null;
    if (mine !== asked) return;
    record = found;
    showRecord();
    showList();
    $("#scroller").scrollTop = 0;
  });
}

async function filter() {
  if (mode !== "read") return;
  await tried(async () => {
    at = 0;
    if (await loadList()) await go(0);
  });
}

async function change(what) {
  await tried(async () => {
    const id = record.id;
    const found = await ask("api/change", { id, version: record.version, change: what });
    mode = "read";
    record = found;
    showRecord();
    if (!await loadList()) return;
    const isStill = rows[position - at]?.id === id;
    if (what.status) await go(isStill ? position + 1 : position);
    else if (!isStill) await go(position);
  });
}

// ---- showing

function label() {
  const strings = STRINGS[locale];
  document.documentElement.lang = locale === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = strings[element.dataset.text];
  for (const element of document.querySelectorAll("[data-label]"))
    element.setAttribute("aria-label", strings[element.dataset.label]);
  for (const element of document.querySelectorAll("[data-placeholder]"))
    element.placeholder = strings[element.dataset.placeholder];
  $("#locale").textContent = strings.other;
  if (!summary) return;
  options("#status", Object.entries(strings.statuses));
  options("#language", [["", `${strings.language}: ${strings.any}`],
    ...summary.languages.map(([name, n]) => [name, `${strings.languages[name]} (${n})`])]);
  // "=" sets the record's task apart from the choice of all.
  options("#task", [["", strings.allTasks],
    ...summary.tasks.map(([name, n]) => [`=${name}`, `${name || strings.noTask} (${n})`])]);
  $("#task").hidden = summary.tasks.length < 2;
  $("#scores").hidden = !summary.scores;
}

function options(selector, pairs) {
  const select = $(selector), chosen = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => {
    const option = make("option", text);
    option.value = value;
    return option;
  }));
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

function facts(row) {
  const strings = STRINGS[locale];
  const score = row.score === null ? "" : strings.score(Math.round(row.score * 1000) / 1000);
  return [row.task, score, strings.languages[row.language], row.edited ? strings.mended : ""].filter(Boolean).join(" · ");
}

function showList() {
  const strings = STRINGS[locale];
  $("#total").textContent = total ? strings.total(total, summary.n) : strings.nothing;
  $("#progress").textContent = strings.progress(summary.keep, summary.reject, summary.edited);
  $("#list").replaceChildren(...rows.map((row, i) => {
    const button = make("button", "", row.status);
    button.append(make("span", marked(row.title) || strings.empty, "title"), make("span", facts(row), "facts"));
    button.setAttribute("aria-current", String(at + i === position));
    button.addEventListener("click", () => { close(); go(at + i); });
    const item = make("li");
    item.append(button);
    return item;
  }));
  $("#list [aria-current=true]")?.scrollIntoView({ block: "nearest" });
  $("#earlier").disabled = at === 0;
  $("#later").disabled = at + rows.length >= total;
  $("#previous").disabled = position === 0;
  $("#next").disabled = position >= total - 1;
}

const ODD = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\u{e0000}-\u{e007f}]/gu;

function named(character) { return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`; }

function marked(text) { return text.replace(ODD, (character) => `⟨${named(character)}⟩`); }

// Control characters and those that turn the order of others around are named, where they would act unseen.
function append(element, text) {
  if (text.length > CHUNK) { // browsers take seconds for a paragraph of a million characters
    for (const part of chunks(text)) {
      const block = make("div", "", "chunk");
      append(block, part);
      element.append(block);
    }
    return;
  }
  const found = [...text.matchAll(ODD)];
  if (!found.length || found.length > MAX_MARKS) {
    element.append(found.length ? marked(text) : text);
    return;
  }
  let end = 0;
  for (const match of found) {
    element.append(text.slice(end, match.index), make("span", named(match[0]), "odd"));
    end = match.index + match[0].length;
  }
  element.append(text.slice(end));
}

function chunks(text) {
  const parts = [];
  for (let begin = 0; begin < text.length;) {
    let end = Math.min(begin + CHUNK, text.length);
    const newline = text.lastIndexOf("\n", end - 1);
    if (end < text.length && newline > begin + CHUNK / 2) end = newline + 1;
    else if (end < text.length && /[\ud800-\udbff]/.test(text[end - 1])) end -= 1;
    parts.push(text.slice(begin, end));
    begin = end;
  }
  return parts;
}

function pathOf(path) {
  return path.map((step, i) => typeof step === "number" ? `[${step}]` : (i ? "." : "") + marked(step)).join("");
}

function showRecord() {
  const strings = STRINGS[locale];
  $("#reading").hidden = mode !== "read";
  $("#editing").hidden = mode === "read";
  for (const name of ["keep", "reject"]) $(`#${name}`).setAttribute("aria-pressed", String(record?.status === name));
  for (const name of ["keep", "reject", "edit", "json"]) $(`#${name}`).disabled = !record;
  $("#edit").disabled = !record || record.broken;
  $("#place").textContent = record ? strings.place(record.file, record.line) : "";
  $("#about").textContent = record ? facts(record) : "";
  if (!record) return void $("#record").replaceChildren();
  if (mode === "json") {
    const area = make("textarea");
    area.value = record.text;
    area.spellcheck = false;
    area.setAttribute("aria-label", strings.json);
    $("#record").replaceChildren(area);
    area.focus();
    area.setSelectionRange(0, 0);
    return;
  }
  const shown = record.leaves.map(leafOf);
  if (record.broken) {
    const text = make("div", "", "value");
    append(text, record.text);
    shown.push(make("p", strings.broken), wrapped(text));
  }
  if (record.more) shown.push(make("p", strings.moreValues(record.more)));
  $("#record").replaceChildren(...shown);
  if (mode === "edit") $("#record textarea")?.focus();
}

function wrapped(...inner) {
  const section = make("section", "", "leaf");
  section.append(...inner);
  return section;
}

function leafOf(leaf) {
  const head = make("h2", pathOf(leaf.path));
  if (mode === "edit" && leaf.is_text) {
    const area = make("textarea");
    area.value = leaf.text;
    area.setAttribute("aria-label", pathOf(leaf.path));
    leaf.area = area;
    return wrapped(head, area);
  }
  const value = make("div", leaf.is_text && !leaf.text ? STRINGS[locale].empty : "", "value");
  append(value, leaf.text);
  const section = wrapped(head, value);
  if (leaf.text.length < 60 && !leaf.text.includes("\n")) section.classList.add("short");
  if (leaf.length > [...leaf.text].length) {
    const button = make("button", STRINGS[locale].whole(leaf.length), "more");
    button.addEventListener("click", () => open("read"));
    section.append(button);
  }
  return section;
}

// ---- editing

async function open(wanted) {
  await tried(async () => {
    const found = await ask(`api/record?id=${record.id}&whole=1`);
    record = found;
    mode = wanted;
    showRecord();
  });
}

const NEWLINE = /\r\n?/g; // a text area turns them into \n

async function save() {
  if (mode === "json") {
    const text = $("#record textarea").value;
    return text === record.text.replace(NEWLINE, "\n") ? cancel() : change({ text });
  }
  const leaves = record.leaves.filter((leaf) => leaf.area && leaf.area.value !== leaf.text.replace(NEWLINE, "\n"))
    .map((leaf) => ({ path: leaf.path,
      text: leaf.text.includes("\r\n") ? leaf.area.value.replaceAll("\n", "\r\n") : leaf.area.value }));
  return leaves.length ? change({ leaves }) : cancel();
}

function cancel() {
  mode = "read";
  $("#problem").hidden = true;
  showRecord();
  $("#scroller").focus();
}

function mark(status) {
  if (record) change({ status: record.status === status ? "" : status });
}

function close() {
  document.body.classList.remove("open");
  $("#menu").setAttribute("aria-expanded", "false");
}

// ---- beginning

const ON_CLICK = {
  "#previous": () => go(position - 1), "#next": () => go(position + 1), "#keep": () => mark("keep"),
  "#reject": () => mark("reject"), "#edit": () => open("edit"), "#json": () => open("json"), "#save": save,
  "#cancel": cancel, "#earlier": () => go(at - PAGE), "#later": () => go(at + PAGE), "#shade": close,
  "#menu": () => $("#menu").setAttribute("aria-expanded", String(document.body.classList.toggle("open"))),
  "#locale": () => {
    if (mode !== "read") return;
    locale = locale === "en" ? "zh" : "en";
    label();
    if (summary) { showList(); showRecord(); }
  },
};
for (const [selector, act] of Object.entries(ON_CLICK)) $(selector).addEventListener("click", act);
$("#filters").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
for (const name of ["status", "language", "task"]) $(`#${name}`).addEventListener("change", filter);
let pause = 0;
for (const name of ["text", "low", "high"])
  $(`#${name}`).addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(filter, 300); });

addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (mode !== "read") {
    if (event.key === "Escape") cancel();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const keys = { ArrowLeft: "#previous", ArrowRight: "#next", h: "#previous", l: "#next", y: "#keep", n: "#reject",
    e: "#edit", j: "#json" };
  const selector = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (selector && !$(selector).disabled) { event.preventDefault(); ON_CLICK[selector](); }
  if (event.key === "/") { event.preventDefault(); document.body.classList.add("open"); $("#text").focus(); }
  if (event.key === "Escape") close();
});
addEventListener("beforeunload", (event) => { if (mode !== "read") event.preventDefault(); });

async function begin() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    stored?.setItem("token", given);
    history.replaceState(null, "", location.pathname); // the token does not stay in the history
  }
  token = given ?? stored?.getItem("token") ?? "";
  label();
  await tried(async () => {
    summary = await ask("api/summary");
    label();
    if (await loadList()) await go(0);
  });
}
begin();
