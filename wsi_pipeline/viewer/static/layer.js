// The objects of one run: columns for all of them, outlines tile by tile as they come into view.

import { getBuffer } from "./api.js";
import { app, emit, path } from "./app.js";
import { MAP, range } from "./colours.js";
import { message } from "./dom.js";

const CONCURRENT = 4;
const MOST_VERTICES = 6_000_000; // kept in memory
export const RING_END = 0xffffffff;
const MARK = [0, 229, 255];

const MODELS = [[14, 165, 233], [225, 29, 72], [34, 160, 80], [245, 158, 11], [139, 92, 246]];

// An object without a value passes only while the filter keeps all values.
const within = ({ values, range: { least, most }, low, high }, i) => {
  const value = values[i];
  return (value >= low && value <= high) || (value !== value && low <= least && high >= most);
};

export class Layer {
  constructor(index, about) {
    Object.assign(this, { index, about, visible: index === 0, count: about.count });
    this.hiddenClasses = new Set();
    this.filters = new Map(); // measurement → { low, high }
    this.colourBy = null; // number of a measurement, null: by class
    this.marks = null; // Uint8Array: in the gate
    this.edited = new Set(); // rows that corrections draw or delete
    this.measurements = new Map();
    this.tiles = new Map();
    this.waiting = [];
    this.loading = 0;
    this.vertices = 0;
    this.version = 0; // of colours
  }

  async load() {
    const bytes = await getBuffer(path(this, "base"));
    const tiles = this.about.columns * this.about.rows;
    this.offsets = new Uint32Array(bytes, 0, tiles + 1);
    this.centres = new Float32Array(bytes, 4 * (tiles + 1), 2 * this.count);
    this.classes = new Uint8Array(bytes, 4 * (tiles + 1) + 8 * this.count, this.count);
    this.colours = new Uint8Array(4 * this.count);
    this.recolour();
  }

  // Values of a measurement, float32, and their range.
  async measurement(index) {
    if (!this.measurements.has(index)) {
      this.measurements.set(index, (async () => {
        const values = new Float32Array(await getBuffer(path(this, `measurement/${index}`)));
        return { values, range: range(values) };
      })());
    }
    return this.measurements.get(index);
  }

  // Whether each object is drawn, and in which colour: red, green, blue, 0 = hidden.
  recolour() {
    const { classes, colours, marks } = this;
    const shown = this.about.classes.map((c) => !this.hiddenClasses.has(c.name));
    const filters = [...this.filters.values()];
    for (let i = 0; i < this.count; i++) {
      let alpha = shown[classes[i]] ? 255 : 0;
      for (const filter of filters) if (!within(filter, i)) alpha = 0;
      if (alpha && marks && !marks[i]) alpha = 90;
      colours[4 * i + 3] = alpha;
    }
    this.#paint();
    for (const row of this.edited) colours[4 * row + 3] = 0;
    this.version++;
    emit("redraw");
  }

  #paint() {
    const { classes, colours, marks, scaled } = this;
    const own = MODELS[this.index % MODELS.length];
    const palette = this.about.classes.map((c) => (this.byModel ? own : c.color));
    for (let i = 0; i < this.count; i++) {
      let [red, green, blue] = palette[classes[i]];
      if (marks && marks[i]) [red, green, blue] = MARK;
      else if (scaled) {
        const share = (scaled.values[i] - scaled.range.low) / (scaled.range.high - scaled.range.low);
        const k = 3 * Math.max(0, Math.min(255, Math.round(share * 255)));
        if (share === share) [red, green, blue] = [MAP[k], MAP[k + 1], MAP[k + 2]];
        else [red, green, blue] = [150, 150, 150];
      }
      colours[4 * i] = red;
      colours[4 * i + 1] = green;
      colours[4 * i + 2] = blue;
    }
  }

  // By class for null, by a measurement, or "model": one colour for all objects of the layer.
  async colourByMeasurement(index) {
    this.byModel = index === "model";
    this.scaled = Number.isInteger(index) ? await this.measurement(index) : null;
    this.colourBy = index;
    this.recolour();
  }

  passes(row) {
    return this.colours[4 * row + 3] > 0;
  }

  get passing() {
    let count = 0;
    for (let i = 3; i < this.colours.length; i += 4) if (this.colours[i]) count++;
    return count;
  }

  // Columns and rows of the tiles that a box touches; objects may reach half a tile out of theirs.
  tilesIn(box) {
    const side = this.about.tile_px;
    const clamp = (v, most) => Math.max(0, Math.min(most, v));
    return {
      x0: clamp(Math.floor(box.x0 / side), this.about.columns - 1),
      x1: clamp(Math.floor(box.x1 / side), this.about.columns - 1),
      y0: clamp(Math.floor(box.y0 / side), this.about.rows - 1),
      y1: clamp(Math.floor(box.y1 / side), this.about.rows - 1),
    };
  }

  // First and last object of each row of tiles in a box: they lie one after the other.
  runs(area) {
    const found = [];
    for (let y = area.y0; y <= area.y1; y++) {
      const first = this.offsets[y * this.about.columns + area.x0];
      const last = this.offsets[y * this.about.columns + area.x1 + 1];
      if (last > first) found.push([first, last]);
    }
    return found;
  }

  // The outlines of a tile: { xy, object, unit, x, y, first }, or null until they are there.
  outlines(index, far) {
    const key = far ? -1 - index : index;
    const tile = this.tiles.get(key);
    if (tile) {
      this.tiles.delete(key); // the last used is the last in the order
      this.tiles.set(key, tile);
      return tile.bytes ? tile : null;
    }
    if (!this.waiting.includes(key)) this.waiting.push(key);
    this.#next();
    return null;
  }

  forgetWaiting() {
    this.waiting.length = 0;
  }

  async #next() {
    if (this.loading >= CONCURRENT || !this.waiting.length) return;
    const key = this.waiting.pop(); // what came into view last
    const index = key < 0 ? -1 - key : key;
    this.loading++;
    this.tiles.set(key, {});
    const view = app.view;
    try {
      const bytes = await getBuffer(path(this, `${key < 0 ? "far" : "outlines"}/${index}`));
      if (view !== app.view) return;
      if (!bytes.byteLength) {
        // The server still reads the outlines; points are drawn until then.
        this.tiles.delete(key);
        this.waiting.length = 0;
        setTimeout(() => emit("redraw"), 500);
        return;
      }
      const head = new DataView(bytes);
      const tile = {
        bytes: new Uint8Array(bytes, 16), count: head.getUint32(0, true), unit: head.getFloat32(4, true),
        x: head.getFloat32(8, true), y: head.getFloat32(12, true), first: this.offsets[index],
      };
      this.tiles.set(key, tile);
      this.vertices += tile.count;
      this.#evict();
      emit("redraw");
    } catch (error) {
      this.tiles.delete(key);
      if (!this.failed) message(`outlines of ${this.about.name}: ${error.message}`, "error");
      this.failed = true;
    } finally {
      this.loading--;
      this.#next();
    }
  }

  #evict() {
    for (const [key, tile] of this.tiles) {
      if (this.vertices <= MOST_VERTICES) return;
      if (!tile.bytes) continue;
      this.vertices -= tile.count;
      this.tiles.delete(key);
      tile.release?.();
    }
  }
}
