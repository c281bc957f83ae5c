// The page: opens a slide of the list, and connects bar, tabs and panels.

import { connect, getJson } from "./api.js";
import { app, emit, on } from "./app.js";
import { showCorrectPanel } from "./correct-panel.js";
import { $, el, guarded, message, shown } from "./dom.js";
import { anyDirty, forgetEdits, loadSaved } from "./edits.js";
import { forgetGallery, showGallery } from "./gallery-panel.js";
import { showKeys, toggleObjects } from "./keys.js";
import { Layer } from "./layer.js";
import { showObjectsPanel } from "./objects-panel.js";
import { drawStill } from "./overlay.js";
import { forgetPlot, showPlot } from "./plot-panel.js";
import { deselect, selectAt } from "./selection.js";
import { afterPaint, goTo, home, openPicture, view, zoomBy } from "./slide.js";
import { mode } from "./draw.js";

const TABS = [["slides", "Slides"], ["objects", "Objects"], ["plot", "Plot"], ["gallery", "Gallery"], ["correct", "Correct"]];
const OPENED = { plot: showPlot, gallery: showGallery };

async function open(index) {
  if (anyDirty() && !confirm("There are corrections that are not saved. Leave them?")) return;
  const about = await getJson(`/api/view/${index}`);
  Object.assign(app, { view: index, about, layers: [], active: null, selected: null });
  forgetEdits();
  forgetGallery();
  forgetPlot();
  deselect();
  $("title").textContent = about.name;
  document.title = `${about.name} · wsiseg`;
  openPicture(about);
  showTab("objects");
  $("busy").hidden = about.layers === 0;
  for (let i = 0; i < about.layers; i++) await guarded(() => openLayer(i));
  if (app.view !== index) return;
  $("busy").hidden = true;
  const { layers } = app;
  emit("active", app.active);
  performance.mark("first-objects");
  showCorrectPanel();
  if (!about.whole_slide) message("The slide file is not here, so its thumbnail is shown. Give the slide to `wsiseg view`.");
  for (const layer of layers) await guarded(() => loadSaved(layer));
}

async function openLayer(i) {
  const view = app.view;
  const layer = new Layer(i, await getJson(`/api/view/${view}/layer/${i}`));
  await layer.load();
  if (app.view !== view) return;
  app.layers.push(layer);
  app.active ??= layer;
  emit("redraw");
}

function showTab(name) {
  for (const [id] of TABS) {
    const chosen = id === name;
    $(`panel-${id}`).hidden = !chosen;
    $(`tab-${id}`)?.setAttribute("aria-selected", String(chosen));
    if ($(`tab-${id}`)) $(`tab-${id}`).tabIndex = chosen ? 0 : -1;
  }
  const numbers = document.querySelector("#object details");
  if (numbers && name === "correct") numbers.open = false; // leaves room for the tools
  OPENED[name]?.();
}

function makeTabs() {
  const wanted = TABS.filter(([id]) => id !== "slides" || app.entries.length > 1);
  const buttons = wanted.map(([id, text]) => {
    const tab = el("button", { id: `tab-${id}`, role: "tab", textContent: text, onclick: () => showTab(id) });
    tab.setAttribute("aria-controls", `panel-${id}`);
    return tab;
  });
  $("tabs").replaceChildren(...buttons);
  $("tabs").onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const now = buttons.indexOf(document.activeElement);
    const next = buttons[(now + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  };
}

function listSlides() {
  const rows = app.entries.map((entry, i) => el("li", {}, el("button", { className: "slide", onclick: () => guarded(() => open(i)) },
    el("strong", { textContent: entry.name }), el("small", { textContent: (entry.runs.join(", ") || "no results") + (entry.slide ? "" : " · slide file not found") }))));
  $("panel-slides").replaceChildren(el("p", { className: "hint", textContent: `${shown(rows.length)} slides` }), el("ol", { className: "list" }, ...rows));
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}

async function start() {
  await connect();
  const library = await getJson("/api/library");
  app.entries = library.entries;
  makeTabs();
  listSlides();
  $("home").onclick = () => home();
  $("zoom-in").onclick = () => zoomBy(1.5);
  $("zoom-out").onclick = () => zoomBy(1 / 1.5);
  $("outlines").onclick = toggleObjects;
  $("theme").onclick = theme;
  $("help").onclick = showKeys;
  on("click", (place) => !mode && selectAt(place));
  on("redraw", drawStill);
  showObjectsPanel();
  await guarded(() => open(0)); // another slide of the list may still open
  if (app.entries.length > 1) showTab("slides");
}

// For tests and measurements.
window.wsiseg = { app, view, goTo, afterPaint };
guarded(start);
