// Corrections: a list of changed objects by id, undo and redo, saving and loading.

import { getJson, postJson } from "./api.js";
import { app, emit, on, path } from "./app.js";
import { message, shown } from "./dom.js";

// Per layer: edits (id → { id, row, deleted, class, rings, moved, renamed }), areas, history.
const books = new Map();
const book = (layer = app.active) => {
  if (!books.has(layer)) books.set(layer, { edits: new Map(), areas: [], done: [], undone: [], saved: 0 });
  return books.get(layer);
};

export const editOf = (id, layer) => book(layer).edits.get(id);
export const edits = (layer) => [...book(layer).edits.values()];
export const areas = (layer) => book(layer).areas;
export const canUndo = () => app.active && book().done.length > 0;
export const canRedo = () => app.active && book().undone.length > 0;
export const isDirty = (layer) => book(layer).done.length !== book(layer).saved;
export const anyDirty = () => app.layers.some((layer) => isDirty(layer));
export const forgetEdits = () => books.clear();

// Loads what was saved earlier.
export async function loadSaved(layer) {
  const saved = await getJson(path(layer, "corrections"));
  const mine = book(layer);
  for (const edit of saved.edits) mine.edits.set(edit.id, edit);
  mine.areas = saved.areas;
  hideRows(layer);
  if (saved.edits.length + saved.areas.length) message(`${layer.about.name}: ${shown(saved.edits.length)} saved corrections loaded`);
}

function hideRows(layer) {
  layer.edited = new Set(edits(layer).filter((edit) => edit.row >= 0).map((edit) => edit.row));
  layer.recolour();
  emit("edited", layer);
}

// Changes one object: `change` has deleted, class or rings.
export function changeObject(object, change) {
  const before = editOf(object.id) ?? null;
  const start = before ?? { id: object.id, row: object.row, deleted: false, class: object.class, rings: object.rings, moved: false, renamed: false };
  const after = { ...start, ...change };
  after.moved ||= "rings" in change;
  after.renamed ||= "class" in change;
  // An object that was added and then deleted is nothing.
  put({ id: object.id, before, after: after.row < 0 && after.deleted ? null : after });
}

// Gives an object back as the run has it; one that was added goes.
export function revert(edit) {
  put({ id: edit.id, before: edit, after: null });
}

export function addObject(rings, name) {
  const edit = { id: crypto.randomUUID(), row: -1, deleted: false, class: name, rings, moved: true, renamed: true };
  put({ id: edit.id, before: null, after: edit });
  return edit;
}

export const addArea = (ring) => put({ areas: areas(), next: [...areas(), ring] });
export const removeArea = (k) => put({ areas: areas(), next: areas().filter((_, i) => i !== k) });

function put(step) {
  const mine = book();
  if (mine.saved > mine.done.length) mine.saved = -1; // the saved state cannot be reached any more
  mine.done.push(step);
  mine.undone.length = 0;
  set(mine, step, true);
}

function set(mine, step, forward) {
  if (step.id === undefined) mine.areas = forward ? step.next : step.areas;
  else {
    const edit = forward ? step.after : step.before;
    if (edit) mine.edits.set(step.id, edit);
    else mine.edits.delete(step.id);
  }
  hideRows(app.active);
}

export function undo() {
  const step = book().done.pop();
  if (!step) return;
  book().undone.push(step);
  set(book(), step, false);
}

export function redo() {
  const step = book().undone.pop();
  if (!step) return;
  book().done.push(step);
  set(book(), step, true);
}

export async function save(layer = app.active) {
  const sent = edits(layer).map((edit) => {
    if (edit.deleted) return { id: edit.id, deleted: true };
    const fresh = edit.row < 0;
    return { id: edit.id, class: fresh || edit.renamed ? edit.class : null, rings: fresh || edit.moved ? edit.rings : null };
  });
  const count = book(layer).done.length;
  const answer = await postJson(path(layer, "corrections"), { edits: sent, areas: areas(layer) });
  book(layer).saved = count;
  message(`Saved ${shown(answer.objects)} objects to ${answer.file}`);
  emit("edited", layer);
}

// The drawn object under a point, if any.
export function editAt(x, y) {
  return edits().find((edit) => !edit.deleted && inside(edit.rings[0], x, y));
}

export function inside(ring, x, y) {
  let within = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [ax, ay] = ring[i];
    const [bx, by] = ring[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

addEventListener("beforeunload", (event) => {
  if (anyDirty()) event.preventDefault();
});
on("edited", () => document.body.classList.toggle("dirty", anyDirty()));
