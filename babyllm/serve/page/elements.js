// Nodes of the page.

const $ = (id) => document.getElementById(id);
const ICONS = {
  menu: "M4 7h16M4 12h16M4 17h16", plus: "M12 5v14M5 12h14", close: "M6 6l12 12M18 6L6 18", check: "M5 12l5 5 9-10",
  sliders: "M4 7h8M16 7h4M4 17h4M12 17h8M16 7a2 2 0 1 1-4 0 2 2 0 0 1 4 0zM12 17a2 2 0 1 1-4 0 2 2 0 0 1 4 0z",
  theme: "M20 14.5A8.5 8.5 0 1 1 9.5 4 7 7 0 0 0 20 14.5z", bars: "M5 20v-6M10 20V9M15 20v-9M20 20V4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13", copy: "M9 9h11v11H9zM5 15H4V4h11v1", edit: "M4 20h4L19 9l-4-4L4 16z",
  again: "M19.5 12a7.5 7.5 0 1 1-2.2-5.300L19.5 9M19.5 4v5h-5", send: "M12 19V5M6 11l6-6 6 6", down: "M12 5v14M6 13l6 6 6-6",
  stop: "M8 8h8v8H8z", good: "M7 11v9H4v-9zM7 11l4-8c2 0 3 1 2.5 3.5L13 9h6l-1.5 9c-.2 1.3-1 2-2 2H7",
  forward: "M5 5v14l9-7zM18 5v14", columns: "M4 5h16v14H4zM12 5v14", more: "M12 5v.01M12 12v.01M12 19v.01",
  clip: "M20 11.5l-8.500 8.500a5 5 0 0 1-7-7L13 4.500a3.400 3.400 0 0 1 4.800 4.800l-8.400 8.400a1.700 1.700 0 0 1-2.400-2.400l7.600-7.600",
  left: "M14.5 6l-6 6 6 6", right: "M9.5 6l6 6-6 6",
  bad: "M17 13V4h3v9zM17 13l-4 8c-2 0-3-1-2.5-3.5L11 15H5l1.5-9c.2-1.3 1-2 2-2H17",
};
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));   // strings become text nodes: nothing the model says is ever parsed
  return node;
}
function icon(name) {
  const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}
function iconButton(name, label, onclick, pressed = null) {
  const attributes = { type: "button", class: "icon-button", "aria-label": label, title: label, "aria-pressed": pressed };
  return make("button", { ...attributes, onclick }, icon(name));
}
function textButton(name, label, onclick) { return make("button", { type: "button", class: "text-button", onclick }, icon(name), label); }
function copyButton(textOf) {
  if (!navigator.clipboard) return null;                        // plain http from another machine has none
  const button = iconButton("copy", strings.copy, async () => {
    await navigator.clipboard.writeText(textOf());
    button.replaceChildren(icon("check"));
    announce(strings.copied);
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}
function announce(text) { $("announcer").textContent = text; }
let toastTimer = 0;
function toast(text, action = null, run = null) {
  $("toast").replaceChildren(text, action ? make("button", { onclick: () => { $("toast").hidden = true; run(); } }, action) : " ");
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, 7000);
}
