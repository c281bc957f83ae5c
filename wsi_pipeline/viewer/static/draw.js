// Drawing and reshaping with the pointer. In these modes the slide moves with keys and wheel.

import { app, emit, on } from "./app.js";
import { addArea, addObject, changeObject } from "./edits.js";
import { $, message } from "./dom.js";
import { handles, setHandles, setSketch, sketch } from "./overlay.js";
import { selectEdit } from "./selection.js";
import { eventToSlide, goTo, overlay, view } from "./slide.js";

const HINTS = {
  add: "Draw the outline: drag around it, or click corner by corner and press Enter. Esc cancels.",
  redraw: "Draw the new outline of the selected object. Esc cancels.",
  area: "Draw around an area in which every object is now right. Esc cancels.",
  reshape: "Drag a corner; click a small point to add one; Delete removes the last touched. Enter ends.",
};
export let mode = null;
export let drawnClass = null; // class of what is drawn
export const setDrawnClass = (name) => (drawnClass = name);
let touched = -1;

export function enter(next) {
  if (!app.active) return message("There is no layer to correct; give a run, or --corrections FILE", "error");
  if ((next === "reshape" || next === "redraw") && !app.selected) return message("Select an object first");
  leave();
  mode = next;
  overlay.classList.add("drawing");
  $("mode").hidden = false;
  $("mode").textContent = HINTS[next];
  if (next === "reshape") {
    touched = -1;
    showLarge(app.selected.rings[0]);
    setHandles({ id: app.selected.id, object: app.selected, ring: app.selected.rings[0].slice(0, -1).map((p) => [...p]), changed: false });
  } else setSketch({ ring: [], lasso: false });
  emit("mode", mode);
  return undefined;
}

// Comes nearer to an outline whose corners would lie on top of each other.
function showLarge(ring) {
  const [xs, ys] = [0, 1].map((k) => ring.map((point) => point[k]));
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const size = Math.max(x1 - x0, y1 - y0);
  if (size * view().css < 160) goTo((x0 + x1) / 2, (y0 + y1) / 2, 2.6 * size);
}

export function leave() {
  mode = null;
  overlay.classList.remove("drawing");
  $("mode").hidden = true;
  setSketch(null);
  setHandles(null);
  emit("mode", null);
}

// Ends a drawing or a reshape, and keeps it.
export function finish() {
  if (mode === "reshape") {
    const { object, ring, changed } = handles;
    leave();
    if (changed) keepOutline(object, ring);
    return;
  }
  if (!mode) return;
  const ring = thinned(sketch.ring);
  const was = mode;
  leave();
  if (ring.length < 3) return message("An outline needs at least three points");
  const closed = [...ring, ring[0]].map(rounded);
  if (was === "area") addArea(closed);
  else if (was === "redraw") keepOutline(app.selected, ring);
  else selectEdit(addObject([closed], drawnClass ?? app.active.about.classes[0].name));
  return undefined;
}

function keepOutline(object, ring) {
  const rings = [[...ring, ring[0]].map(rounded)];
  changeObject(object, { rings });
  if (app.selected?.id === object.id) emit("selected", Object.assign(app.selected, { rings }));
}

const rounded = ([x, y]) => [Math.round(x * 100) / 100, Math.round(y * 100) / 100];

// Leaves out points of a lasso that lie closer than 2 pixels of the screen.
function thinned(ring) {
  const least = 2 / view().css;
  return ring.filter(([x, y], i) => i === 0 || Math.hypot(x - ring[i - 1][0], y - ring[i - 1][1]) > least || !sketch?.lasso);
}

overlay.addEventListener("pointerdown", (event) => {
  if (!mode || event.button !== 0) return;
  event.stopPropagation();
  overlay.setPointerCapture(event.pointerId);
  const { x, y } = eventToSlide(event);
  if (mode === "reshape") return grab(event.target, x, y);
  const { ring } = sketch;
  const last = ring.at(-1);
  if (last && Math.hypot(x - ring[0][0], y - ring[0][1]) * view().css < 8 && ring.length > 2) return finish();
  setSketch({ ring: [...ring, [x, y]], lasso: ring.length === 0 ? undefined : false, pressed: true });
  return undefined;
});

function grab(target, x, y) {
  if (target.dataset.corner !== undefined) touched = Number(target.dataset.corner);
  else if (target.dataset.after !== undefined) {
    touched = Number(target.dataset.after) + 1;
    handles.ring.splice(touched, 0, [x, y]);
    handles.changed = true;
  } else return;
  setHandles({ ...handles, held: true });
}

overlay.addEventListener("pointermove", (event) => {
  if (!mode) return;
  const { x, y } = eventToSlide(event);
  if (mode === "reshape" && handles.held) {
    handles.ring[touched] = [x, y];
    setHandles({ ...handles, changed: true });
  } else if (sketch?.pressed && sketch.lasso !== false) {
    setSketch({ ...sketch, ring: [...sketch.ring, [x, y]], lasso: true });
  }
});

overlay.addEventListener("pointerup", (event) => {
  if (!mode) return;
  event.stopPropagation();
  if (handles) return setHandles({ ...handles, held: false });
  if (sketch.lasso && sketch.ring.length > 6) return finish();
  return setSketch({ ...sketch, lasso: sketch.lasso ? false : sketch.lasso, ring: sketch.lasso ? sketch.ring.slice(0, 1) : sketch.ring, pressed: false });
});
overlay.addEventListener("dblclick", (event) => {
  if (!mode) return;
  event.stopPropagation();
  finish();
});

// Removes the corner that was touched last.
export function removeCorner() {
  if (mode !== "reshape" || touched < 0 || handles.ring.length <= 3) return;
  handles.ring.splice(touched, 1);
  touched = -1;
  setHandles({ ...handles, changed: true });
}
on("active", () => mode && leave());
