// Panel "Gallery": the most atypical cells first; a click goes to the cell on the slide.

import { getBlob, getJson, postRows } from "./api.js";
import { app, on, path } from "./app.js";
import { $, el, guarded, shown } from "./dom.js";
import { select } from "./selection.js";

const panel = $("panel-gallery");
let cells = [];
let place = -1;
let loaded = null;

export async function showGallery() {
  if (!app.active || loaded === app.active) return;
  await show("Cells that differ most from the rest of this slide; no diagnosis.", (layer) => getJson(path(layer, "gallery")));
}

// Shows the objects of these rows alone, until the gallery of all is asked for.
export async function showGated(rows) {
  await show(`Of the ${shown(rows.length)} objects in the gate, those that differ most from the rest of this slide; no diagnosis.`, (layer) => postRows(path(layer, "gallery"), rows));
  panel.prepend(el("button", { textContent: "Gallery of all", onclick: () => {
    loaded = null;
    showGallery();
  } }));
}

async function show(text, ask) {
  loaded = app.active;
  const layer = app.active;
  panel.replaceChildren(el("p", { className: "hint", textContent: "Ranking …" }));
  const found = await guarded(() => ask(layer));
  if (!found || loaded !== layer) return;
  cells = found.cells;
  place = -1;
  const list = el("ol", { className: "cells" }, ...cells.map((cell, i) => item(layer, cell, i)));
  const how = el("details", {}, el("summary", { textContent: "How they are ranked" }), el("p", { className: "hint", textContent: found.ranking }));
  panel.replaceChildren(el("p", { className: "hint", textContent: `${text} N and P go on and back.` }), how, list);
}
on("active", () => {
  loaded = null;
  if (!panel.hidden) showGallery();
});
export function forgetGallery() {
  loaded = null;
  cells = [];
}

function item(layer, cell, i) {
  const picture = el("img", { alt: "", width: 120, height: 120, loading: "lazy" });
  const open = el("button", { className: "cell", onclick: () => go(i) }, picture, el("span", { textContent: `${cell.rank} · ${cell.class}` }), el("small", { textContent: cell.reasons.join(", ") }));
  watch(open, () => load(picture, cell));
  return el("li", {}, open);
}

// Loads a picture when it comes into view.
function watch(node, work) {
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    work();
  });
  seen.observe(node);
}

async function load(picture, cell) {
  const [x, y, side] = [cell.x, cell.y, cell.side].map((v) => Math.max(0, Math.round(v)));
  const url = URL.createObjectURL(await getBlob(`/api/view/${app.view}/crop/${x}/${y}/${side}`));
  picture.onload = () => URL.revokeObjectURL(url);
  picture.src = url;
}

function go(i) {
  if (!cells.length) return;
  place = (i + cells.length) % cells.length;
  panel.querySelectorAll(".cell").forEach((node, k) => node.setAttribute("aria-current", String(k === place)));
  select(app.active, cells[place].row, true);
}
export const next = (step) => go(place + step);
