// Draws objects over the slide with WebGL 2: outlines when near, points farther, density when far.

import { densityPicture } from "./density.js";
import { programs } from "./shaders.js";

const WIDE = 4096; // pixels in a row of the texture of colours
const LONG = 1024; // vertices in a row of the texture of a tile
const MOST_OUTLINES = 9_000; // objects in view
const MOST_POINTS = 120_000;
const SMALLEST_OUTLINE = 5; // pixels of the screen
const SMALLEST_POINT = 1.6;
const FAR_OUTLINE = 16;

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
    if (!this.gl) throw new Error("this browser has no WebGL 2, so objects are not drawn; use a newer browser");
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.#begin());
    this.#begin();
  }

  #begin() {
    this.programs = programs(this.gl);
    this.cards = new Map(); // layer → what the graphics card holds of it
    this.gl.enable(this.gl.BLEND);
    this.gl.blendFunc(this.gl.ONE, this.gl.ONE_MINUS_SRC_ALPHA);
  }

  forget() {
    for (const card of this.cards.values()) {
      for (const texture of [card.colours, card.density]) this.gl.deleteTexture(texture);
      this.gl.deleteBuffer(card.centres);
    }
    this.cards.clear();
  }

  // How a layer is drawn in a view: "outlines", "points" or "density".
  level(layer, view) {
    const area = layer.tilesIn(view.box);
    const count = layer.runs(area).reduce((sum, [first, last]) => sum + last - first, 0);
    const size = layer.about.median_px * view.scale;
    if (size >= SMALLEST_OUTLINE && count <= MOST_OUTLINES) return { kind: "outlines", area, count, size };
    const many = count > MOST_POINTS || (size < SMALLEST_POINT && count > MOST_OUTLINES);
    return { kind: many ? "density" : "points", area, count, size };
  }

  // `view`: box and corner in level-0 pixels, scale in screen pixels of each, ratio of the screen.
  draw(layers, about, view) {
    const { gl, canvas } = this;
    if (gl.isContextLost()) return [];
    if (canvas.width !== view.width || canvas.height !== view.height) {
      canvas.width = view.width;
      canvas.height = view.height;
    }
    gl.viewport(0, 0, view.width, view.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    return layers.map((layer) => {
      const level = this.level(layer, view);
      const card = this.#card(layer);
      gl.activeTexture(gl.TEXTURE0);
      gl.bindTexture(gl.TEXTURE_2D, card.colours);
      layer.forgetWaiting();
      if (level.kind === "density") this.#density(layer, card, about, view);
      else if (level.kind === "points") this.#points(card, layer.runs(level.area), view, level.size);
      else this.#outlines(layer, card, view, level);
      return level;
    });
  }

  #card(layer) {
    const { gl } = this;
    let card = this.cards.get(layer);
    if (!card) {
      card = { colours: this.#texture(gl.NEAREST), density: this.#texture(gl.LINEAR), centres: gl.createBuffer(), version: -1, dense: -1 };
      gl.bindBuffer(gl.ARRAY_BUFFER, card.centres);
      gl.bufferData(gl.ARRAY_BUFFER, layer.centres, gl.STATIC_DRAW);
      this.cards.set(layer, card);
    }
    if (card.version !== layer.version) {
      const rows = Math.max(1, Math.ceil(layer.count / WIDE));
      card.padded ??= new Uint8Array(4 * WIDE * rows);
      card.padded.set(layer.colours);
      gl.bindTexture(gl.TEXTURE_2D, card.colours);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, WIDE, rows, 0, gl.RGBA, gl.UNSIGNED_BYTE, card.padded);
      card.version = layer.version;
    }
    return card;
  }

  #texture(filter) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, filter);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    return texture;
  }

  #use({ program, at }, view) {
    const { gl } = this;
    gl.useProgram(program);
    gl.uniform2f(at("size"), view.width, view.height);
    gl.uniform1f(at("scale"), view.scale);
    return at;
  }

  #density(layer, card, about, view) {
    const { gl } = this;
    if (card.dense !== layer.version) {
      const { pixels, width, height, extent } = densityPicture(layer, about);
      gl.bindTexture(gl.TEXTURE_2D, card.density);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
      Object.assign(card, { dense: layer.version, extent });
    }
    const at = this.#use(this.programs.quad, view);
    gl.bindTexture(gl.TEXTURE_2D, card.density);
    gl.uniform2f(at("corner"), view.box.x0, view.box.y0);
    gl.uniform2f(at("extent"), ...card.extent);
    gl.disableVertexAttribArray(0);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  #points(card, runs, view, size) {
    const { gl } = this;
    const at = this.#use(this.programs.points, view);
    gl.uniform2f(at("corner"), view.box.x0, view.box.y0);
    gl.uniform1f(at("pointSize"), Math.max(2, Math.min(7, size * 0.8)) * view.ratio);
    gl.bindBuffer(gl.ARRAY_BUFFER, card.centres);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
    for (const [first, last] of runs) gl.drawArrays(gl.POINTS, first, last - first);
  }

  #outlines(layer, card, view, level) {
    const { gl } = this;
    const far = level.size < FAR_OUTLINE;
    const late = [];
    const ready = [];
    // Objects reach out of their tile, so the tiles around the view are drawn too.
    const margin = layer.about.tile_px / 4;
    const { box } = view;
    const area = layer.tilesIn({ x0: box.x0 - margin, y0: box.y0 - margin, x1: box.x1 + margin, y1: box.y1 + margin });
    for (let y = area.y0; y <= area.y1; y++) {
      for (let x = area.x0; x <= area.x1; x++) {
        const index = y * layer.about.columns + x;
        if (layer.offsets[index] === layer.offsets[index + 1]) continue;
        const tile = layer.outlines(index, far);
        if (tile) ready.push(tile);
        else late.push([layer.offsets[index], layer.offsets[index + 1]]);
      }
    }
    if (late.length) this.#points(card, late, view, level.size);
    const at = this.#use(this.programs.lines, view);
    gl.uniform1f(at("halfWidth"), (level.size < FAR_OUTLINE ? 1.5 : 1.9) * Math.max(1, view.ratio * 0.8));
    gl.uniform1i(at("colours"), 0);
    gl.uniform1i(at("vertices"), 1);
    gl.disableVertexAttribArray(0);
    gl.activeTexture(gl.TEXTURE1);
    for (const tile of ready) this.#tile(tile, at, view);
    gl.activeTexture(gl.TEXTURE0);
  }

  #tile(tile, at, view) {
    const { gl } = this;
    if (!tile.texture || tile.owner !== this) this.#upload(tile);
    gl.bindTexture(gl.TEXTURE_2D, tile.texture);
    gl.uniform2f(at("origin"), tile.x - view.box.x0, tile.y - view.box.y0);
    gl.uniform1f(at("unit"), tile.unit);
    gl.uniform1ui(at("first"), tile.first);
    gl.drawArrays(gl.TRIANGLES, 0, 6 * (tile.count - 1));
  }

  // The vertices of a tile as a texture: x and y in 16 bits each, then the object.
  #upload(tile) {
    const { gl } = this;
    const rows = Math.ceil(tile.count / LONG);
    const padded = new Uint32Array(2 * LONG * rows);
    padded.set(new Uint32Array(tile.bytes.buffer, tile.bytes.byteOffset, 2 * tile.count));
    tile.texture = this.#texture(gl.NEAREST);
    tile.owner = this;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RG32UI, LONG, rows, 0, gl.RG_INTEGER, gl.UNSIGNED_INT, padded);
    tile.release = () => gl.deleteTexture(tile.texture);
  }
}
