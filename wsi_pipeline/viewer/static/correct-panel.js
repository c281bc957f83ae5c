// Panel "Correct": delete, add, reshape, change the class; undo; areas; save.

import { app, emit, on } from "./app.js";
import { areas, canRedo, canUndo, changeObject, edits, isDirty, redo, removeArea, revert, save, undo } from "./edits.js";
import { $, el, guarded, shown } from "./dom.js";
import { drawnClass, enter, finish, leave, mode, setDrawnClass } from "./draw.js";
import { deselect, selectEdit } from "./selection.js";
import { goTo } from "./slide.js";

const panel = $("panel-correct");
const LISTED = 200;

export function deleteSelected() {
  const object = app.selected;
  if (!object || object.deleted) return;
  changeObject(object, { deleted: true });
  deselect();
}

export function renameSelected(name) {
  const object = app.selected;
  if (!object || !name || object.class === name) return;
  addClass(name);
  changeObject(object, { class: name });
  emit("selected", Object.assign(object, { class: name }));
}

function addClass(name) {
  const { classes } = app.active.about;
  if (!classes.some((c) => c.name === name)) classes.push({ name, color: [255, 79, 216], count: 0 });
}

export const saveNow = () => guarded(() => save());

export function showCorrectPanel() {
  if (!app.active) {
    panel.replaceChildren(el("p", { className: "hint", textContent: "There is nothing to correct: give a run, or --corrections FILE to draw from nothing." }));
    return;
  }
  panel.replaceChildren(tools(), classBox(), listBox(), areaBox(), saveBox());
}

function button(text, title, work, options = {}) {
  return el("button", { textContent: text, title, onclick: work, ...options });
}

function tools() {
  const none = !app.selected;
  const draws = mode !== null;
  return el("fieldset", {}, el("legend", { textContent: "Change" }), el("div", { className: "row wrap" },
    button("Draw new", "Add an object (D)", () => enter("add")),
    button("Reshape", "Move corners of the selected object (R)", () => enter("reshape"), { disabled: none }),
    button("Redraw", "Draw the selected object anew (W)", () => enter("redraw"), { disabled: none }),
    button("Delete", "Delete the selected object (X)", deleteSelected, { disabled: none, className: "danger" }),
    button("Undo", "Undo (Ctrl+Z)", undo, { disabled: !canUndo() }),
    button("Redo", "Redo (Ctrl+Shift+Z)", redo, { disabled: !canRedo() }),
    draws ? button("Done", "Keep what is drawn (Enter)", finish, { className: "main" }) : null,
    draws ? button("Cancel", "Forget what is drawn (Esc)", leave) : null,
  ), none ? el("p", { className: "hint", textContent: "Click an object on the slide to select it." }) : null);
}

function classBox() {
  const names = app.active.about.classes.map((c) => c.name);
  const current = app.selected?.class ?? drawnClass ?? names[0] ?? "";
  const buttons = names.map((name, i) => button(i < 9 ? `${i + 1}  ${name}` : name, `Class ${name}` + (i < 9 ? ` (${i + 1})` : ""), () => chooseClass(name), { ariaPressed: String(name === current), className: "choice" }));
  const other = el("input", { type: "text", maxLength: 100, placeholder: "another class" });
  other.setAttribute("aria-label", "Another class");
  other.onchange = () => {
    const name = other.value.trim();
    if (!name) return;
    addClass(name);
    chooseClass(name);
  };
  const text = app.selected ? "Class of the selected object" : "Class of what you draw";
  return el("fieldset", {}, el("legend", { textContent: text }), el("div", { className: "row wrap" }, ...buttons), other);
}

export function chooseClass(name) {
  if (app.selected) renameSelected(name);
  else setDrawnClass(name);
  showCorrectPanel();
}

function listBox() {
  const all = edits();
  const word = (edit) => (edit.deleted ? "deleted" : edit.row < 0 ? "added" : edit.moved ? "reshaped" : "class");
  const rows = all.slice(-LISTED).reverse().map((edit) => {
    const back = button("Revert", "Take this correction back", () => { deselect(); revert(edit); }, { className: "small" });
    const go = button(`${word(edit)}: ${edit.class ?? "object"}`, "Go there", () => selectEdit(edit, true), { className: "small grow" });
    return el("li", { className: "row" }, go, back);
  });
  if (all.length > LISTED) rows.push(el("li", { className: "hint", textContent: `and ${shown(all.length - LISTED)} earlier ones` }));
  const counts = {};
  for (const edit of all) counts[word(edit)] = (counts[word(edit)] ?? 0) + 1;
  const said = Object.entries(counts).map(([name, n]) => `${shown(n)} ${name}`).join(", ");
  return el("fieldset", {}, el("legend", { textContent: "Corrections" }), el("p", { className: "hint", role: "status", textContent: said || "none yet" }), el("ol", { className: "list" }, ...rows));
}

function areaBox() {
  const rows = areas().map((ring, k) => {
    const xs = ring.map((p) => p[0]);
    const [low, high] = [Math.min(...xs), Math.max(...xs)];
    return el("li", { className: "row" }, button(`Area ${k + 1}`, "Go there", () => goTo((low + high) / 2, ring.reduce((sum, p) => sum + p[1], 0) / ring.length, 1.4 * (high - low)), { className: "small grow" }), button("×", "Remove this area", () => removeArea(k), { className: "small" }));
  });
  return el("fieldset", {}, el("legend", { textContent: "Checked areas" }), el("p", { className: "hint", textContent: "Training uses only areas in which you have checked every object." }), button("Draw area", "Draw a checked area (A)", () => enter("area")), el("ul", { className: "list" }, ...rows));
}

function saveBox() {
  return el("div", { className: "save" }, button("Save", "Save corrections (Ctrl+S)", saveNow, { className: "main", disabled: !isDirty() }), el("p", { className: "hint", textContent: `Writes ${app.active.about.file}: every object, with its id. QuPath reads it.` }));
}

for (const name of ["selected", "edited", "active", "mode"]) on(name, showCorrectPanel);
