// Keys of the keyboard, and the panel that lists them.

import { app, emit } from "./app.js";
import { $, el } from "./dom.js";
import { chooseClass, deleteSelected, saveNow } from "./correct-panel.js";
import { enter, finish, leave, mode, removeCorner } from "./draw.js";
import { redo, undo } from "./edits.js";
import { next } from "./gallery-panel.js";
import { deselect } from "./selection.js";
import { home, panBy, zoomBy } from "./slide.js";

export function toggleObjects() {
  app.shown = !app.shown;
  $("outlines").setAttribute("aria-pressed", String(app.shown));
  emit("redraw");
}

const STEP = 120;
const KEYS = {
  "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: home,
  ArrowLeft: () => panBy(-STEP, 0), ArrowRight: () => panBy(STEP, 0), ArrowUp: () => panBy(0, -STEP), ArrowDown: () => panBy(0, STEP),
  h: toggleObjects, n: () => next(1), p: () => next(-1), "?": showKeys,
  d: () => enter("add"), r: () => enter("reshape"), w: () => enter("redraw"), a: () => enter("area"), x: deleteSelected,
  Delete: () => (mode === "reshape" ? removeCorner() : deleteSelected()), Backspace: removeCorner,
  Enter: finish, Escape: () => (mode ? leave() : deselect()),
};

const LIST = [
  ["Drag, arrow keys", "move"], ["Wheel, + −, double click", "zoom"], ["0", "whole slide"], ["H", "hide or show objects"],
  ["Click", "select an object"], ["N, P", "next, previous cell of the gallery"], ["Esc", "cancel, deselect"],
  ["D", "draw a new object"], ["R", "reshape the selected object"], ["W", "draw it anew"], ["X", "delete it"], ["1 – 9", "give it a class"],
  ["A", "draw a checked area"], ["Enter", "end the drawing"], ["Ctrl Z, Ctrl Shift Z", "undo, redo"], ["Ctrl S", "save corrections"], ["?", "this list"],
];

export function showKeys() {
  const rows = LIST.map(([keys, text]) => el("tr", {}, el("th", { scope: "row" }, el("kbd", { textContent: keys })), el("td", { textContent: text })));
  const close = el("button", { textContent: "Close", className: "main", onclick: () => $("keys").close() });
  $("keys").replaceChildren(el("h2", { id: "keys-title", textContent: "Keyboard and mouse" }), el("table", {}, ...rows),
    el("p", { className: "hint", textContent: "Grey stripes on the slide: the file cannot be read there. Density: number of objects, from violet (few) to yellow (many)." }),
    el("p", { className: "hint", textContent: "Research use; not a medical device. With OpenSeadragon (BSD-3-Clause)." }), close);
  $("keys").showModal();
}

addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea, dialog") || event.altKey) return;
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.target.closest("button") && (key === "Enter" || key === " ")) return;
  if (event.target.closest("[role=tab]") && key.startsWith("Arrow")) return;
  let work = command ? { z: event.shiftKey ? redo : undo, y: redo, s: saveNow }[key] : KEYS[key];
  if (!command && /^[1-9]$/.test(key) && app.active) {
    const entry = app.active.about.classes[Number(key) - 1];
    work = entry && (() => chooseClass(entry.name));
  }
  if (!work || (command && !app.active)) return;
  event.preventDefault();
  work();
});
