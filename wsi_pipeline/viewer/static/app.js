// What all panels share: the open slide, its layers, the selection, and events about them.

export const app = {
  entries: [], // slides to choose from
  view: 0, // number of the open one
  about: null, // its size, pixel size and layers
  layers: [],
  active: null, // the layer that panels are about
  selected: null, // { layer, row, id, class, rings, … }
  shown: true, // objects are drawn
};

const bus = new EventTarget();
export const on = (name, work) => bus.addEventListener(name, (event) => work(event.detail));
export const emit = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

export const path = (layer, rest) => `/api/view/${app.view}/layer/${layer.index}/${rest}`;

export function activate(layer) {
  if (app.active === layer) return;
  app.active = layer;
  emit("active", layer);
}
