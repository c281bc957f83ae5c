// How many objects lie where, as a picture of the whole slide: shown when objects are too small.

import { MAP } from "./colours.js";

const MOST_CELLS = 1024; // on the longer side

// RGBA pixels, width, height, and the level-0 pixels that each covers.
export function densityPicture(layer, about) {
  const cell = Math.max(1, Math.max(about.width, about.height) / MOST_CELLS);
  const width = Math.ceil(about.width / cell);
  const height = Math.ceil(about.height / cell);
  const counts = new Uint32Array(width * height);
  const sums = layer.scaled ? new Float32Array(width * height) : null;
  const known = layer.scaled ? new Uint32Array(width * height) : null;
  const { centres, colours, marks, scaled } = layer;
  for (let i = 0; i < layer.count; i++) {
    if (!colours[4 * i + 3] || (marks && !marks[i])) continue;
    const x = Math.min(width - 1, Math.max(0, Math.floor(centres[2 * i] / cell)));
    const y = Math.min(height - 1, Math.max(0, Math.floor(centres[2 * i + 1] / cell)));
    const place = y * width + x;
    counts[place]++;
    if (sums && scaled.values[i] === scaled.values[i]) {
      sums[place] += scaled.values[i];
      known[place]++;
    }
  }
  let most = 1;
  for (const count of counts) if (count > most) most = count;
  const pixels = new Uint8Array(4 * counts.length);
  const span = scaled ? scaled.range.high - scaled.range.low : 1;
  for (let i = 0; i < counts.length; i++) {
    if (!counts[i]) continue;
    const crowd = Math.log1p(counts[i]) / Math.log1p(most);
    const share = sums ? (sums[i] / known[i] - scaled.range.low) / span : crowd;
    const k = 3 * Math.max(0, Math.min(255, Math.round(share * 255)));
    pixels.set([MAP[k], MAP[k + 1], MAP[k + 2], 120 + 110 * crowd], 4 * i);
  }
  return { pixels, width, height, extent: [width * cell, height * cell] };
}
