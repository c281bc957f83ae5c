// Colours of measurements, and CSS texts of colours.

// Nine colours of the map viridis, which keeps its order for colour-blind eyes and in grey.
const VIRIDIS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
];

export const MAP = new Uint8Array(256 * 3);
for (let i = 0; i < 256; i++) {
  const place = (i / 255) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  for (let c = 0; c < 3; c++) {
    MAP[3 * i + c] = VIRIDIS[low][c] + (place - low) * (VIRIDIS[low + 1][c] - VIRIDIS[low][c]);
  }
}

export const css = ([red, green, blue], alpha = 1) => `rgba(${red},${green},${blue},${alpha})`;
export const mapped = (share) => {
  const i = 3 * Math.max(0, Math.min(255, Math.round(share * 255)));
  return [MAP[i], MAP[i + 1], MAP[i + 2]];
};

// Low and high end of most values: the 1st and 99th percentile of a sample.
export function range(values) {
  const step = Math.max(1, Math.floor(values.length / 20_000));
  const sample = [];
  for (let i = 0; i < values.length; i += step) if (Number.isFinite(values[i])) sample.push(values[i]);
  if (!sample.length) return { low: 0, high: 1, least: 0, most: 1, known: 0 };
  sample.sort((a, b) => a - b);
  const at = (share) => sample[Math.round(share * (sample.length - 1))];
  let least = Infinity;
  let most = -Infinity;
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  const low = at(0.01);
  const high = at(0.99);
  return { low, high: high > low ? high : low + 1, least, most: most > least ? most : least + 1, known: sample.length };
}
