// Panel "Objects": models and classes on and off, colours, filters.

import { activate, app, emit, on } from "./app.js";
import { css, mapped } from "./colours.js";
import { $, el, guarded, shown } from "./dom.js";

const panel = $("panel-objects");

export function showObjectsPanel() {
  if (!app.layers.length) {
    panel.replaceChildren(el("p", { className: "hint", textContent: "This slide has no results. Run `wsiseg run` on it, and give the run folder to `wsiseg view`." }));
    return;
  }
  panel.replaceChildren(...app.layers.map(layerBox), colourBox(), filterBox());
}
on("active", showObjectsPanel);

function layerBox(layer) {
  const toggle = el("input", { type: "checkbox", checked: layer.visible, onchange: () => {
    layer.visible = toggle.checked;
    emit("redraw");
  } });
  const choose = el("input", { type: "radio", name: "active", checked: layer === app.active, onchange: () => activate(layer) });
  choose.setAttribute("aria-label", `Use ${layer.about.name} in all panels`);
  const title = el("label", { className: "layer" }, toggle, el("strong", { textContent: layer.about.name }), el("span", { className: "count", textContent: shown(layer.count) }));
  const classes = layer.about.classes.map((entry) => classRow(layer, entry));
  return el("fieldset", {}, el("legend", { textContent: "Model", className: "quiet" }), el("div", { className: "row" }, app.layers.length > 1 ? choose : null, title), ...classes);
}

function classRow(layer, entry) {
  const box = el("input", { type: "checkbox", checked: !layer.hiddenClasses.has(entry.name), onchange: () => {
    if (box.checked) layer.hiddenClasses.delete(entry.name);
    else layer.hiddenClasses.add(entry.name);
    layer.recolour();
    emit("filtered", layer);
  } });
  const swatch = el("span", { className: "swatch" });
  swatch.style.background = css(entry.color);
  return el("label", { className: "class" }, box, swatch, el("span", { textContent: entry.name }), el("span", { className: "count", textContent: shown(entry.count) }));
}

function options(first) {
  const { measurements } = app.active.about;
  return [el("option", { value: "", textContent: first }), ...measurements.map((name, i) => el("option", { value: String(i), textContent: name }))];
}

function colourBox() {
  const layer = app.active;
  const select = el("select", { id: "colour-by", onchange: () => guarded(async () => {
    const { value } = select;
    if (value === "model") await Promise.all(app.layers.map((each) => each.colourByMeasurement("model")));
    else await layer.colourByMeasurement(value === "" ? null : Number(value));
    legend();
  }) }, ...options("class"));
  if (app.layers.length > 1) select.options[0].after(el("option", { value: "model", textContent: "model" }));
  select.value = layer.colourBy === null ? "" : String(layer.colourBy);
  const bar = el("div", { className: "legend" });
  const legend = () => {
    bar.hidden = !layer.scaled;
    if (bar.hidden) return;
    const { low, high } = layer.scaled.range;
    const ramp = el("div", { className: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map((s) => css(mapped(s))).join(",")})`;
    const ends = el("div", { className: "ends" }, el("span", { textContent: `≤ ${shown(low)}` }), el("span", { textContent: shown((low + high) / 2) }), el("span", { textContent: `≥ ${shown(high)}` }));
    bar.replaceChildren(ramp, ends, el("p", { className: "hint", textContent: "Grey: no value." }));
  };
  legend();
  return el("fieldset", {}, el("legend", { textContent: "Colour" }), el("label", { className: "field" }, "Colour by", select), bar);
}

function filterBox() {
  const layer = app.active;
  const list = el("div", { className: "filters" });
  const count = el("p", { className: "hint", role: "status" });
  const tell = () => {
    count.textContent = layer.filters.size ? `${shown(layer.passing)} of ${shown(layer.count)} objects pass.` : "";
  };
  const add = el("select", { onchange: () => guarded(async () => {
    const index = Number(add.value);
    add.value = "";
    await addFilter(layer, index);
    showObjectsPanel();
  }) }, ...options("add a measurement …"));
  add.setAttribute("aria-label", "Add a filter on a measurement");
  for (const [index, filter] of layer.filters) list.append(filterRow(layer, index, filter, tell));
  tell();
  return el("fieldset", {}, el("legend", { textContent: "Filter" }), list, add, count);
}

async function addFilter(layer, index) {
  const { values, range } = await layer.measurement(index);
  layer.filters.set(index, { values, range, low: range.least, high: range.most });
  layer.recolour();
}

function filterRow(layer, index, filter, tell) {
  const name = layer.about.measurements[index];
  const { least, most } = filter.range;
  const apply = later(() => {
    layer.recolour();
    tell();
    emit("filtered", layer);
  });
  const slider = (end, word) => {
    const box = el("input", { type: "number", step: "any", value: String(round(filter[end])) });
    const line = el("input", { type: "range", min: least, max: most, step: (most - least) / 500, value: filter[end] });
    const set = (value) => {
      filter[end] = value;
      apply();
    };
    line.oninput = () => {
      // The ends of the slider are the ends of the values, also where steps do not reach them.
      const value = Number(line.value);
      box.value = String(round(value));
      set(end === "high" && value > most - (most - least) / 400 ? most : value);
    };
    box.onchange = () => {
      line.value = box.value;
      set(Number(box.value));
    };
    for (const input of [box, line]) input.setAttribute("aria-label", `${name}, ${word}`);
    return el("div", { className: "slider" }, el("span", { textContent: word }), line, box);
  };
  const remove = el("button", { className: "small", textContent: "×", title: "Remove this filter", onclick: () => {
    layer.filters.delete(index);
    layer.recolour();
    emit("filtered", layer);
    showObjectsPanel();
  } });
  remove.setAttribute("aria-label", `Remove the filter on ${name}`);
  return el("div", { className: "filter" }, el("div", { className: "row" }, el("span", { className: "grow", textContent: name }), remove), histogram(filter), slider("low", "from"), slider("high", "to"));
}

const round = (value) => Number(value.toPrecision(4));

// Draws how often the values occur.
function histogram({ values, range: { least, most } }) {
  const canvas = el("canvas", { className: "histogram", width: 240, height: 32 });
  canvas.setAttribute("aria-hidden", "true");
  const counts = new Uint32Array(80);
  for (const value of values) if (value >= least) counts[Math.min(79, Math.floor(((value - least) / (most - least)) * 80))]++;
  const highest = Math.sqrt(Math.max(...counts, 1));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#0d9488";
  counts.forEach((n, i) => pen.fillRect(3 * i, 32 - (32 * Math.sqrt(n)) / highest, 2, 32));
  return canvas;
}

// Runs `work` at most once in a frame.
function later(work) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      work();
    });
  };
}
