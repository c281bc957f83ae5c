// The slide: OpenSeadragon with tiles of our server, our objects over it, scale bar and position.

import { headers } from "./api.js";
import { app, emit, on } from "./app.js";
import { $, el, message, shown, svg } from "./dom.js";
import { Painter } from "./painter.js";

let viewer = null;
let painter = null;
let canvas = null;
export const overlay = svg("svg", { id: "overlay", "aria-hidden": "true" });

// OpenSeadragon adds a style sheet of its own unless there is one; our policy forbids inline styles.
const noStyle = document.createElementNS("urn:wsiseg", "style");
noStyle.setAttribute("data-openseadragon-mobile-css", "true");
document.head.append(noStyle);

export function openPicture(about) {
  viewer?.destroy();
  painter?.forget();
  const levels = Math.ceil(Math.log2(Math.max(about.width, about.height) / about.tile_px));
  viewer = window.OpenSeadragon({
    element: $("slide"), drawer: "canvas", showNavigationControl: false,
    showNavigator: true, navigatorPosition: "BOTTOM_RIGHT", navigatorSizeRatio: 0.16,
    loadTilesWithAjax: true, ajaxHeaders: headers(), imageLoaderLimit: 6, timeout: 90_000,
    maxZoomPixelRatio: 6, visibilityRatio: 0.4, animationTime: 0.5, springStiffness: 9,
    zoomPerScroll: 1.3, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
    gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false },
    tileSources: {
      width: about.width, height: about.height, tileSize: about.tile_px, tileOverlap: 0,
      minLevel: Math.max(0, about.levels - 1 - Math.max(0, levels)), maxLevel: about.levels - 1,
      getTileUrl: (level, x, y) => `/api/view/${app.view}/tile/${level}/${x}/${y}`,
    },
  });
  canvas = el("canvas", { id: "objects" });
  viewer.canvas.append(canvas, overlay);
  painter = null;
  try {
    painter = new Painter(canvas);
  } catch (error) {
    message(error.message, "error");
  }
  listen();
}

function listen() {
  viewer.addHandler("update-viewport", paint);
  viewer.addHandler("open-failed", () => message("the slide cannot be shown", "error"));
  viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = true));
  viewer.addHandler("canvas-click", (event) => {
    if (event.quick) emit("click", { ...toSlide(event.position), shift: event.shift });
  });
  viewer.addHandler("canvas-double-click", () => zoomBy(2));
  viewer.addOnceHandler("tile-drawn", () => performance.mark("first-picture"));
  viewer.element.addEventListener("pointermove", (event) => {
    const box = viewer.element.getBoundingClientRect();
    showPosition(toSlide({ x: event.clientX - box.left, y: event.clientY - box.top }));
  });
}

// The visible part: box in level-0 pixels, and pixels of the screen for each.
export function view() {
  const bounds = viewer.viewport.getBoundsNoRotate(true);
  const { width: all } = app.about;
  const size = viewer.viewport.getContainerSize();
  const ratio = window.devicePixelRatio || 1;
  const box = {
    x0: bounds.x * all, y0: bounds.y * all,
    x1: (bounds.x + bounds.width) * all, y1: (bounds.y + bounds.height) * all,
  };
  const css = size.x / (bounds.width * all);
  return { box, css, ratio, scale: css * ratio, width: Math.round(size.x * ratio), height: Math.round(size.y * ratio) };
}

export const toSlide = ({ x, y }) => {
  const { box, css } = view();
  return { x: box.x0 + x / css, y: box.y0 + y / css };
};
export const toScreen = ([x, y]) => {
  const { box, css } = view();
  return [(x - box.x0) * css, (y - box.y0) * css];
};
export const eventToSlide = (event) => {
  const box = viewer.element.getBoundingClientRect();
  return toSlide({ x: event.clientX - box.left, y: event.clientY - box.top });
};

const waiting = [];
// Calls a function right after the next picture is drawn.
export function afterPaint(work) {
  waiting.push(work);
  viewer.forceRedraw();
}

function paint() {
  if (!app.about) return;
  const now = view();
  const visible = app.shown ? app.layers.filter((layer) => layer.visible && layer.colours) : [];
  const levels = painter?.draw(visible, app.about, now) ?? [];
  showLevel(levels);
  showScale(now);
  emit("painted", now);
  waiting.splice(0).forEach((work) => work());
}
on("redraw", () => viewer?.forceRedraw());

function showLevel(levels) {
  const kinds = [...new Set(levels.filter((level) => level.count).map((level) => level.kind))];
  const text = { density: "Density: zoom in for outlines", points: "Points: zoom in for outlines" };
  const said = kinds.map((kind) => text[kind]).find(Boolean) ?? "";
  const chip = $("detail-level");
  if (chip.textContent !== said) chip.textContent = said;
  chip.hidden = !said;
}

function showScale({ css }) {
  const mpp = app.about.mpp;
  const unit = mpp ?? 1; // µm or pixels
  const wanted = (110 / css) * unit;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const length = [5, 2, 1].map((step) => step * power).find((step) => step <= wanted) ?? power;
  $("scale-line").style.width = `${(length / unit) * css}px`;
  $("scale-text").textContent = mpp === null ? `${shown(length)} px` : length >= 1000 ? `${shown(length / 1000)} mm` : `${shown(length)} µm`;
}

function showPosition({ x, y }) {
  const mpp = app.about?.mpp;
  const pixels = `${Math.floor(x).toLocaleString("en")}, ${Math.floor(y).toLocaleString("en")} px`;
  const micrometres = mpp ? `  ·  ${(x * mpp).toFixed(1)}, ${(y * mpp).toFixed(1)} µm` : "";
  $("position").textContent = pixels + micrometres;
}

export const home = () => viewer.viewport.goHome();
export function zoomBy(factor) {
  viewer.viewport.zoomBy(factor);
  viewer.viewport.applyConstraints();
}
export function panBy(x, y) {
  viewer.viewport.panBy(viewer.viewport.deltaPointsFromPixels(new window.OpenSeadragon.Point(x, y)));
  viewer.viewport.applyConstraints();
}

// Moves to a place; `width` is the wanted width of the view in level-0 pixels.
export function goTo(x, y, width, immediately = false) {
  const all = app.about.width;
  const now = view();
  const height = (width * (now.box.y1 - now.box.y0)) / (now.box.x1 - now.box.x0);
  const rect = new window.OpenSeadragon.Rect((x - width / 2) / all, (y - height / 2) / all, width / all, height / all);
  viewer.viewport.fitBounds(rect, immediately);
}
