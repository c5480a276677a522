// Models, settings, and the two sides of a comparison.

let controlled = 0; // the side whose settings are open
const isRight = () => settings.isComparing && controlled === 1;
const own = () => (isRight() ? settings.other : settings);
const systemShown = () => (isRight() ? (settings.other.system ?? chat.system) : chat.system);
function describe({ by = {}, system }, other) {
  // The model, and what is not as on the other side.
  const differing = Object.keys(CONTROLS).filter((name) => by[name] !== other.by?.[name]);
  const shown = (name) => `${strings[name]} ${by[name] === CONTROLS[name].off ? strings.off : by[name]}`;
  return [
    by.model || server.title,
    ...differing.map(shown),
    ...(system === other.system ? [] : [system ? strings.ownSystem : strings.noSystem]),
  ].join(" · ");
}
function drawModel() {
  const name = served(settings.model),
    names = name === server.model ? server.title : name;
  $("model").textContent = document.title = names || "babyllm";
  $("compare").setAttribute("aria-pressed", String(settings.isComparing));
  $("sides").hidden = !settings.isComparing;
  $("sides").replaceChildren(...(settings.isComparing ? sideButtons() : []));
}
function sideButtons() {
  const both = [left(), right()].map(({ model, sampling, system }) => ({
    by: { model: model ?? "", ...sampling },
    system,
  }));
  const isSame = describe(both[0], both[1]) === describe(both[1], both[0]);
  return both.map((side, at) =>
    make(
      "button",
      { type: "button", onclick: () => openSettings(at) },
      make("b", {}, strings.sides[at]),
      make("span", {}, describe(side, both[1 - at]) + (at && isSame ? ` · ${strings.sameSettings}` : "")),
      icon("sliders"),
    ),
  );
}
function openSettings(side = 0) {
  controlled = side;
  drawControls();
  $("settings").showModal();
}
function choose(message) {
  // the answer of a comparison that is read on from
  turnTo(chat, message);
  problem = edited = null;
  save(chat);
  draw();
  $("messages").querySelector(`[data-id="${message.id}"] footer button[aria-pressed]`)?.focus();
}
function modelControl() {
  if (server.models.length < 2) return [];
  const select = make("select", { id: "which" }, ...server.models.map((name) => make("option", { value: name }, name)));
  select.value = served(own().model);
  select.addEventListener("change", () => {
    own().model = select.value;
    saveSettings();
    drawModel();
  });
  return [make("label", { for: "which" }, strings.model), select];
}
function sideControl() {
  if (!settings.isComparing) return [];
  const choices = strings.sides.map((name, at) => {
    const input = make("input", {
      type: "radio",
      name: "side",
      id: `side-${at}`,
      checked: controlled === at ? "" : null,
    });
    input.addEventListener("change", () => {
      controlled = at;
      drawControls();
      $(`side-${at}`).focus();
    });
    return make("label", { for: input.id }, input, name);
  });
  return [make("div", { class: "choices", role: "radiogroup", "aria-label": strings.comparison }, ...choices)];
}
function rangeControl([name, { min, max, step, off }]) {
  const { sampling } = own(),
    top = name === "max_tokens" ? Math.min(max, Math.max(min, server.context)) : max;
  const shown = () => (sampling[name] === off ? strings.off : String(Math.min(top, sampling[name])));
  const output = make("output", { for: name }, shown()),
    hint = make("small", { id: `${name}-hint` }, strings[`${name}Hint`]);
  const input = make("input", {
    type: "range",
    id: name,
    min,
    max: top,
    step,
    value: sampling[name],
    "aria-describedby": hint.id,
  });
  input.addEventListener("input", () => {
    sampling[name] = Number(input.value);
    output.textContent = shown();
    saveSettings();
    drawModel();
  });
  return [make("label", { for: name }, strings[name], output), input, hint];
}
function drawControls() {
  $("which-side").replaceChildren(...sideControl(), ...modelControl());
  $("sampling").replaceChildren(...Object.entries(CONTROLS).flatMap(rangeControl));
  if ($("system").value !== systemShown()) $("system").value = systemShown();
}
function setSystem(text) {
  if (isRight()) settings.other.system = text;
  else {
    chat.system = settings.system = text;
    save(chat);
  }
  saveSettings();
  drawModel();
}
function resetSettings() {
  own().sampling = defaults();
  if (isRight()) Object.assign(settings.other, { model: "", system: null });
  saveSettings();
  drawControls();
  drawModel();
}
function toggleComparison() {
  settings.isComparing = !settings.isComparing;
  controlled = 0;
  saveSettings();
  drawControls();
  drawModel();
  announce(settings.isComparing ? strings.comparisonOn : strings.comparisonOff);
  following(() => {});
}
