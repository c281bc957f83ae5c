// Panel "Population": two measurements of all objects, and a gate that a person draws around some.

import { postBytes } from "./api.js";
import { app, emit, on, path } from "./app.js";
import { mapped } from "./colours.js";
import { $, download, el, guarded, shown } from "./dom.js";
import { inside } from "./edits.js";
import { showGated } from "./gallery-panel.js";
import { select } from "./selection.js";

const panel = $("panel-plot");
const WIDTH = 300;
const HEIGHT = 260;
const EDGE = { left: 46, right: 8, top: 8, bottom: 30 };
const LISTED = 100;
let plot = null; // { layer, x, y, gate, rows } with columns
let drawing = null;

const first = (names, ...wanted) => {
  for (const part of wanted) {
    const found = names.findIndex((name) => name.includes(part));
    if (found >= 0) return found;
  }
  return Math.min(1, names.length - 1);
};

export async function showPlot() {
  const layer = app.active;
  if (!layer) return panel.replaceChildren(el("p", { className: "hint", textContent: "There are no objects to plot." }));
  if (plot?.layer !== layer) {
    const names = layer.about.measurements;
    plot = { layer, xName: first(names, "Nucleus: Area", "Cell: Area", "Area"), yName: first(names, "Nucleus/Cell", "OD mean", "Circularity"), kind: layer.about.plotted_class, gate: null, rows: [] };
  }
  return guarded(async () => {
    [plot.x, plot.y] = await Promise.all([layer.measurement(plot.xName), layer.measurement(plot.yName)]);
    build();
  });
}
on("active", () => !panel.hidden && showPlot());
on("filtered", () => !panel.hidden && plot && applyGate());
export const forgetPlot = () => (plot = null);

function choice(label, key) {
  const names = plot.layer.about.measurements;
  const select = el("select", { onchange: () => {
    plot[key] = Number(select.value);
    clearGate();
    showPlot();
  } }, ...names.map((name, i) => el("option", { value: String(i), textContent: name, selected: i === plot[key] })));
  return el("label", { className: "field" }, label, select);
}

function kinds() {
  const names = ["", ...plot.layer.about.classes.map((c) => c.name)];
  const select = el("select", { onchange: () => {
    plot.kind = select.value;
    clearGate();
    showPlot();
  } }, ...names.map((name) => el("option", { value: name, textContent: name || "all classes", selected: name === plot.kind })));
  return el("label", { className: "field" }, "Of", select);
}

let canvas = null;
function build() {
  canvas = el("canvas", { id: "plot", tabIndex: 0, role: "img" });
  canvas.setAttribute("aria-label", "Population plot; drag around objects to gate them");
  canvas.onpointerdown = press;
  canvas.onpointermove = drag;
  canvas.onpointerup = release;
  const clear = el("button", { textContent: "Clear gate", onclick: () => { clearGate(); build(); }, disabled: !plot.gate });
  const save = el("button", { textContent: "Export GeoJSON", className: "main", onclick: exportRows, disabled: !plot.rows.length });
  const gallery = el("button", { textContent: "Gallery", onclick: showRows, disabled: !plot.rows.length });
  const keep = el("button", { textContent: "Save gate", onclick: saveGate, disabled: !plot.gate });
  panel.replaceChildren(choice("Across", "xName"), choice("Up", "yName"), kinds(), canvas,
    el("p", { className: "hint", role: "status", textContent: plot.gate ? `${shown(plot.rows.length)} objects in the gate` : "Drag around objects in the plot to gate them." }),
    limits("Across", 0), limits("Up", 1), el("div", { className: "row" }, clear, keep, gallery, save), list());
  drawPlot();
}

// Two fields for the limits of the gate along an axis: the way to gate without a pointer.
function limits(label, axis) {
  const own = (plot.gate ?? []).map((point) => point[axis]);
  const fields = ["from", "to"].map((end, k) => {
    const limit = k ? Math.max(...own) : Math.min(...own);
    const { least, most } = plot["xy"[axis]].range;
    const value = own.length && limit > least && limit < most ? Number(limit.toPrecision(4)) : "";
    const field = el("input", { type: "number", step: "any", value, onchange: gateByLimits });
    field.setAttribute("aria-label", `${label}, ${end}`);
    field.dataset.limit = `${axis}${k}`;
    return field;
  });
  return el("div", { className: "limits" }, el("span", { textContent: label }), fields[0], "to", fields[1]);
}

// An empty field leaves its side open.
function gateByLimits(event) {
  const place = event.target.dataset.limit;
  const limit = (axis, k) => {
    const text = panel.querySelector(`[data-limit="${axis}${k}"]`).value;
    const { least, most } = plot["xy"[axis]].range;
    const room = 0.01 * (most - least);
    return text === "" ? [least - room, most + room][k] : Number(text);
  };
  const [x0, x1, y0, y1] = [limit(0, 0), limit(0, 1), limit(1, 0), limit(1, 1)];
  plot.gate = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
  applyGate();
  panel.querySelector(`[data-limit="${place}"]`).focus();
}

function list() {
  const rows = plot.rows.slice(0, LISTED).map((row) => el("li", {}, el("button", { className: "small row", onclick: () => select(plot.layer, row, true) },
    el("span", { className: "grow", textContent: plot.layer.about.classes[plot.layer.classes[row]].name }),
    el("span", { className: "count", textContent: `${shown(plot.x.values[row])} · ${shown(plot.y.values[row])}` }))));
  if (plot.rows.length > LISTED) rows.push(el("li", { className: "hint", textContent: `and ${shown(plot.rows.length - LISTED)} more in the export` }));
  return el("ol", { className: "list" }, ...rows);
}

const plotted = (row) => {
  const { layer, kind } = plot;
  return (!kind || layer.about.classes[layer.classes[row]].name === kind) && layer.passes(row);
};
const spans = () => ["x", "y"].map((key) => {
  const { low, high } = plot[key].range;
  return [low - 0.06 * (high - low), high + 0.12 * (high - low)];
});
const places = (width, height) => {
  const [[x0, x1], [y0, y1]] = spans();
  const w = width - EDGE.left - EDGE.right;
  const h = height - EDGE.top - EDGE.bottom;
  return {
    toX: (v) => EDGE.left + ((v - x0) / (x1 - x0)) * w, toY: (v) => EDGE.top + h - ((v - y0) / (y1 - y0)) * h,
    fromX: (p) => x0 + ((p - EDGE.left) / w) * (x1 - x0), fromY: (p) => y0 + ((EDGE.top + h - p) / h) * (y1 - y0),
  };
};

function drawPlot() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = WIDTH * ratio;
  canvas.height = HEIGHT * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const at = places(WIDTH, HEIGHT);
  drawPoints(pen, at);
  drawAxes(pen, at);
  drawGate(pen, at);
}

// Counts objects in squares of 2 × 2 pixels, and colours them by their number.
function drawPoints(pen, at) {
  const [columns, rows] = [WIDTH / 2, HEIGHT / 2];
  const counts = new Uint32Array(columns * rows);
  const { layer, x, y } = plot;
  for (let i = 0; i < layer.count; i++) {
    if (!plotted(i)) continue;
    const px = Math.floor(at.toX(x.values[i]) / 2);
    const py = Math.floor(at.toY(y.values[i]) / 2);
    if (px >= EDGE.left / 2 && px < columns && py >= 0 && py < rows - EDGE.bottom / 2) counts[py * columns + px]++;
  }
  const most = Math.log1p(Math.max(1, counts.reduce((a, b) => Math.max(a, b), 0)));
  counts.forEach((count, i) => {
    if (!count) return;
    const [red, green, blue] = mapped(Math.log1p(count) / most);
    pen.fillStyle = `rgb(${red},${green},${blue})`;
    pen.fillRect((i % columns) * 2, Math.floor(i / columns) * 2, 2, 2);
  });
}

const ticks = ([low, high]) => {
  const step = 10 ** Math.floor(Math.log10((high - low) / 3));
  const wide = [1, 2, 5, 10].map((k) => k * step).find((s) => (high - low) / s <= 5);
  const found = [];
  for (let v = Math.ceil(low / wide) * wide; v <= high; v += wide) found.push(Number(v.toPrecision(10)));
  return found;
};

function drawAxes(pen, at) {
  const style = getComputedStyle(document.body);
  pen.strokeStyle = pen.fillStyle = style.getPropertyValue("--soft").trim();
  pen.font = "11px system-ui, sans-serif";
  const bottom = HEIGHT - EDGE.bottom;
  pen.strokeRect(EDGE.left - 0.5, EDGE.top - 0.5, WIDTH - EDGE.left - EDGE.right + 1, bottom - EDGE.top + 1);
  const [across, up] = spans();
  pen.textAlign = "center";
  for (const v of ticks(across)) pen.fillText(shown(v), at.toX(v), bottom + 14);
  pen.textAlign = "right";
  for (const v of ticks(up)) pen.fillText(shown(v), EDGE.left - 4, at.toY(v) + 4);
  pen.textAlign = "center";
  pen.fillText(plot.layer.about.measurements[plot.xName], (WIDTH + EDGE.left) / 2, HEIGHT - 3, WIDTH - EDGE.left);
  pen.save();
  pen.translate(10, bottom / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(plot.layer.about.measurements[plot.yName], 0, 0, bottom);
  pen.restore();
}

function drawGate(pen, at) {
  const ring = drawing ?? plot.gate;
  if (!ring?.length) return;
  pen.beginPath();
  for (const [x, y] of ring) pen.lineTo(at.toX(x), at.toY(y));
  if (!drawing) pen.closePath();
  pen.lineWidth = 2;
  pen.strokeStyle = "#e11d8f";
  pen.fillStyle = "rgba(225,29,143,.12)";
  pen.stroke();
  if (!drawing) pen.fill();
}

const pointOf = (event) => {
  const box = canvas.getBoundingClientRect();
  const at = places(WIDTH, HEIGHT);
  return [at.fromX(((event.clientX - box.left) / box.width) * WIDTH), at.fromY(((event.clientY - box.top) / box.height) * HEIGHT)];
};
function press(event) {
  canvas.setPointerCapture(event.pointerId);
  drawing = [pointOf(event)];
}
function drag(event) {
  if (!drawing) return;
  drawing.push(pointOf(event));
  drawPlot();
}
function release() {
  const ring = drawing;
  drawing = null;
  if (!ring || ring.length < 3) return drawPlot();
  plot.gate = ring;
  return applyGate();
}

// Marks the objects in the gate: highlighted on the slide, listed, ready for export.
function applyGate() {
  const { layer, gate, x, y } = plot;
  if (gate) {
    const marks = new Uint8Array(layer.count);
    const rows = [];
    for (let i = 0; i < layer.count; i++) {
      if (!plotted(i) || !inside(gate, x.values[i], y.values[i])) continue;
      marks[i] = 1;
      rows.push(i);
    }
    layer.marks = marks;
    plot.rows = rows.sort((a, b) => y.values[b] - y.values[a]);
    layer.recolour();
    emit("gated", rows.length);
  }
  build();
}

function clearGate() {
  plot.gate = null;
  plot.rows = [];
  plot.layer.marks = null;
  plot.layer.recolour();
}

function showRows() {
  guarded(() => showGated(new Uint32Array(plot.rows)));
  $("tab-gallery").click();
}

// Saves the gate for `wsiseg population --gate`.
function saveGate() {
  const { layer, xName, yName, gate } = plot;
  const [x, y] = [xName, yName].map((i) => layer.about.measurements[i]);
  download(`${app.about.name}.gate.json`, JSON.stringify({ x, y, polygon: gate }), "application/json");
}

const exportRows = () => guarded(async () => {
  const bytes = await postBytes(path(plot.layer, "export"), new Uint32Array(plot.rows));
  download(`${app.about.name}.gate.geojson`, bytes, "application/geo+json");
});
