// What is drawn as SVG over the objects: corrections, areas, the selection, and its handles.

import { app, on } from "./app.js";
import { areas, edits } from "./edits.js";
import { css } from "./colours.js";
import { svg } from "./dom.js";
import { overlay, toScreen } from "./slide.js";

const still = svg("g"); // in level-0 pixels, moved as a whole
const loose = svg("g"); // in pixels of the screen, drawn anew
overlay.append(still, loose);

export let sketch = null; // { ring, closed } while a person draws
export function setSketch(next) {
  sketch = next;
  drawLoose();
}
export let handles = null; // { ring, onchange } while an outline is reshaped
export function setHandles(next) {
  handles = next;
  drawStill();
  drawLoose();
}

const line = (rings) => rings.map((ring) => `M${ring.map((p) => p.join(" ")).join("L")}Z`).join("");

function shape(rings, name, colour) {
  const path = svg("path", { d: line(rings), class: name, "vector-effect": "non-scaling-stroke" });
  if (colour) path.style.stroke = colour;
  return path;
}

const colourOf = (name) => {
  const entry = app.active.about.classes.find((c) => c.name === name);
  return entry ? css(entry.color) : "#ff4fd8";
};

export function drawStill() {
  const parts = [];
  if (app.active && app.shown) {
    for (const ring of areas()) parts.push(shape([ring], "area"));
    for (const edit of edits()) {
      if (edit.deleted || edit.id === handles?.id) continue;
      parts.push(shape(edit.rings, "casing"), shape(edit.rings, "edit", colourOf(edit.class)));
    }
  }
  const chosen = app.selected;
  if (chosen && chosen.id !== handles?.id) parts.push(shape(chosen.rings, "halo"), shape(chosen.rings, "chosen"));
  still.replaceChildren(...parts);
}

function drawLoose() {
  const parts = [];
  if (sketch?.ring.length) {
    const points = sketch.ring.map(toScreen);
    const d = `M${points.map((p) => p.join(" ")).join("L")}`;
    parts.push(svg("path", { d, class: "halo" }), svg("path", { d, class: "sketch" }));
    if (!sketch.lasso) for (const [cx, cy] of points) parts.push(svg("circle", { cx, cy, r: 4, class: "corner" }));
  }
  if (handles) {
    const points = handles.ring.map(toScreen);
    const d = line([points]);
    parts.push(svg("path", { d, class: "halo" }), svg("path", { d, class: "sketch" }));
    points.forEach(([cx, cy], i) => {
      const [nx, ny] = points[(i + 1) % points.length];
      if (Math.hypot(nx - cx, ny - cy) < 22) return;
      parts.push(svg("circle", { cx: (cx + nx) / 2, cy: (cy + ny) / 2, r: 4, class: "middle", "data-after": i }));
    });
    points.forEach(([cx, cy], i) => parts.push(svg("circle", { cx, cy, r: 6, class: "corner", "data-corner": i })));
  }
  loose.replaceChildren(...parts);
}

on("painted", ({ box, css: scale }) => {
  still.setAttribute("transform", `matrix(${scale} 0 0 ${scale} ${-box.x0 * scale} ${-box.y0 * scale})`);
  if (sketch || handles) drawLoose();
});
for (const name of ["edited", "selected", "active", "redraw"]) on(name, drawStill);
