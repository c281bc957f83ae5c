// Which object lies under the pointer.

import { RING_END } from "./layer.js";

// The smallest object of a layer whose outline holds a point; otherwise the nearest centre.
export function pick(layer, x, y, reach) {
  const side = layer.about.tile_px;
  const area = layer.tilesIn({ x0: x - side, y0: y - side, x1: x + side, y1: y + side });
  let best = null;
  for (let ty = area.y0; ty <= area.y1; ty++) {
    for (let tx = area.x0; tx <= area.x1; tx++) {
      const index = ty * layer.about.columns + tx;
      const tile = layer.tiles.get(index)?.bytes ? layer.tiles.get(index) : layer.tiles.get(-1 - index);
      if (tile?.bytes) best = inTile(layer, tile, x, y, best);
    }
  }
  return best ?? nearest(layer, area, x, y, reach);
}

function inTile(layer, tile, x, y, best) {
  const words = new DataView(tile.bytes.buffer, tile.bytes.byteOffset);
  const px = (x - tile.x) / tile.unit;
  const py = (y - tile.y) / tile.unit;
  let inside = false;
  let area = 0;
  for (let i = 0; i + 1 < tile.count; i++) {
    const object = words.getUint32(8 * i + 4, true);
    if (object === RING_END) continue;
    const ax = words.getInt16(8 * i, true);
    const ay = words.getInt16(8 * i + 2, true);
    const bx = words.getInt16(8 * i + 8, true);
    const by = words.getInt16(8 * i + 10, true);
    if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) inside = !inside;
    area += ax * by - bx * ay;
    const after = i + 2 < tile.count ? words.getUint32(8 * (i + 2) + 4, true) : RING_END;
    if (words.getUint32(8 * (i + 1) + 4, true) !== RING_END || after === object) continue;
    const row = tile.first + object;
    const size = (Math.abs(area) * tile.unit ** 2) / 2;
    if (inside && layer.passes(row) && (!best || size < best.size)) best = { row, size };
    inside = false;
    area = 0;
  }
  return best;
}

function nearest(layer, area, x, y, reach) {
  let best = null;
  let closest = reach * reach;
  for (const [first, last] of layer.runs(area)) {
    for (let row = first; row < last; row++) {
      const distance = (layer.centres[2 * row] - x) ** 2 + (layer.centres[2 * row + 1] - y) ** 2;
      if (distance < closest && layer.passes(row)) {
        closest = distance;
        best = { row, size: Infinity };
      }
    }
  }
  return best;
}
