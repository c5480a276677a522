"use strict";
// Values under the pointer, and curves hidden by their names; without a script the page shows the same curves.
for (const figure of document.querySelectorAll("figure")) {
  const { axes, curves } = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector(".plot"), frame = plot.querySelector("svg"), cursor = figure.querySelector(".cursor");
  const buttons = [...figure.querySelectorAll(".legend button")], lines = [...frame.querySelectorAll("g")];
  const area = { left: frame.x.baseVal.value, width: frame.width.baseVal.value };
  const [first, last] = axes, caption = figure.querySelector("figcaption"), title = caption.textContent;
  const format = (value) => Math.abs(value) >= 1e5 ? Math.round(value).toLocaleString("en") : String(value);
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    caption.textContent = title;
    for (const button of buttons) button.querySelector("b").textContent = "";
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * plot.viewBox.baseVal.width;
    const step = first + Math.min(1, Math.max(0, (x - area.left) / area.width)) * (last - first);
    let shown = null;
    curves.forEach(([steps, values], i) => {
      if (!steps.length) return;
      let low = 0, high = steps.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (steps[middle] <= step) low = middle; else high = middle;
      }
      const near = step - steps[low] < steps[high] - step ? low : high;
      buttons[i].querySelector("b").textContent = format(values[near]);
      shown ??= steps[near];
    });
    const at = area.left + (shown - first) / ((last - first) || 1) * area.width;
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.setAttribute("visibility", "visible");
    caption.textContent = `${title} · ${Math.round(shown).toLocaleString("en")}`;
  });
  plot.addEventListener("pointerleave", leave);
  buttons.forEach((button, i) => button.addEventListener("click", () => {
    const is_shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", is_shown);
    lines[i].style.display = is_shown ? "" : "none";
  }));
}
