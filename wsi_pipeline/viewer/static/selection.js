// The selected object: a click selects, its numbers are shown, its outline is drawn thick.

import { getJson } from "./api.js";
import { activate, app, emit, on, path } from "./app.js";
import { editOf, editAt } from "./edits.js";
import { $, el, guarded, shown } from "./dom.js";
import { pick } from "./pick.js";
import { goTo, view } from "./slide.js";

const box = $("object");

export function selectAt({ x, y }) {
  const reach = 10 / view().css;
  const drawn = app.active && editAt(x, y);
  if (drawn) return selectEdit(drawn);
  let best = null;
  for (const layer of app.layers) {
    if (!layer.visible || !layer.colours || !app.shown) continue;
    const found = pick(layer, x, y, reach);
    if (found && (!best || found.size < best.size)) best = { ...found, layer };
  }
  return best ? select(best.layer, best.row) : deselect();
}

export async function select(layer, row, move = false) {
  await guarded(async () => {
    const detail = await getJson(path(layer, `object/${row}`));
    activate(layer);
    const edit = editOf(detail.id);
    const now = edit?.deleted ? { deleted: true } : edit ? { class: edit.class, rings: edit.rings } : {};
    choose({ ...detail, layer, ...now }, move);
  });
}

// Selects an object that a correction has drawn.
export async function selectEdit(edit, move = false) {
  if (edit.row >= 0) return select(app.active, edit.row, move);
  const [x, y] = middle(edit.rings);
  return choose({ ...edit, layer: app.active, x, y, measurements: {}, score: null, nuclei: [], cell: null }, move);
}

function choose(object, move) {
  app.selected = object;
  if (move) goTo(object.x, object.y, Math.max(400, 12 * extent(object.rings)));
  emit("selected", object);
}

export function deselect() {
  app.selected = null;
  emit("selected", null);
}

const middle = (rings) => [0, 1].map((k) => {
  const values = rings[0].map((point) => point[k]);
  return (Math.min(...values) + Math.max(...values)) / 2;
});
const extent = (rings) => {
  const values = rings[0].map((point) => point[0]);
  return Math.max(...values) - Math.min(...values);
};

on("selected", (object) => {
  box.hidden = !object;
  document.body.classList.toggle("has-object", Boolean(object));
  if (!object) return;
  const { mpp } = app.about;
  const place = `x ${shown(Math.round(object.x))}, y ${shown(Math.round(object.y))} px` + (mpp ? ` · ${shown(object.x * mpp)}, ${shown(object.y * mpp)} µm` : "");
  const close = el("button", { className: "small", textContent: "×", title: "Deselect (Esc)", onclick: deselect });
  close.setAttribute("aria-label", "Deselect");
  const copy = el("button", { className: "small", textContent: "Copy id", onclick: () => navigator.clipboard?.writeText(object.id) });
  const head = el("div", { className: "row" }, el("strong", { className: "grow", textContent: object.class + (object.deleted ? " (deleted)" : "") }), object.score === null ? null : el("span", { className: "count", textContent: `score ${object.score.toFixed(2)}` }), copy, close);
  const related = [];
  if (object.cell !== null && object.cell !== undefined) related.push(link("its cell", object.layer, object.cell));
  (object.nuclei ?? []).forEach((row, i) => related.push(link(`nucleus ${i + 1}`, object.layer, row)));
  box.replaceChildren(head, el("p", { className: "hint", textContent: place }), related.length ? el("p", { className: "row wrap" }, ...related) : null ?? "", table(object.measurements));
});

const link = (text, layer, row) => el("button", { className: "small", textContent: text, onclick: () => select(layer, row) });

function table(measurements) {
  const rows = Object.entries(measurements).map(([name, value]) => el("tr", {}, el("th", { scope: "row", textContent: name }), el("td", { textContent: shown(value) })));
  const summary = el("summary", { textContent: `${rows.length} measurements` });
  // There is little room beside the tools for correcting, and on a telephone.
  const open = $("panel-correct").hidden && !matchMedia("(max-width: 760px)").matches;
  return el("details", { open }, summary, el("table", {}, ...rows));
}
