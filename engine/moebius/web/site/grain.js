// The grain of engine/moebius/pictures/grain.py, number for number: the fine detail of what is around a hole, laid over its fill. Arrays of
// pixels are flat, three channels a pixel; masks have one byte a pixel. `constants` are plan.json's.

import { grown } from "./grown.js";

// What is to be added to the picture `filled` where it is filled in, `own`; nothing is known in `hole`.
export function grain(filled, own, hole, width, height, seed, constants) {
  const { BLOCK, DRAWN, ALIKE, PICK, GRAIN_FADE } = constants;
  const fine = residual(filled, hole.map((h) => (h ? 0 : 1)), width, height, constants);
  const sources = sourcesOf(fine, filled, hole, width, height, constants);
  const added = new Float64Array(filled.length);
  if (!sources.length) return added;
  const itself = residual(filled, own, width, height, constants);
  const squares = new Float64Array(width * height);
  const half = BLOCK / 2;
  const ramp = Array.from({ length: BLOCK }, (_, i) => Math.min(i + 1, BLOCK - i));
  for (let row = 1; row < Math.floor(height / half) + 3; row++) {
    for (let column = 1; column < Math.floor(width / half) + 3; column++) {
      const [top, left] = [row * half - BLOCK, column * half - BLOCK];
      const places = []; // of the block, in the picture
      let [count, sum] = [0, 0];
      const colour = [0, 0, 0]; // sums
      for (let j = 0; j < BLOCK; j++) {
        for (let i = 0; i < BLOCK; i++) {
          if (top + j < 0 || top + j >= height || left + i < 0 || left + i >= width) continue;
          const at = (top + j) * width + left + i;
          places.push([at, j, i]);
          if (!own[at]) continue;
          count += 1;
          for (let c = 0; c < 3; c++) {
            sum += itself[3 * at + c] ** 2;
            colour[c] += filled[3 * at + c];
          }
        }
      }
      if (!count) continue;
      const drawn = Array.from({ length: DRAWN }, (_, k) => sources[mixed(seed, row, column, k) % sources.length]);
      const wanted = colour.map((sum) => Math.floor((sum * BLOCK ** 2) / count));
      const unlike = ({ colours }) => colours.reduce((total, v, c) => total + (v - wanted[c]) ** 2, 0);
      const alike = [...drawn].sort((a, b) => unlike(a) - unlike(b)).slice(0, ALIKE); // sorting keeps the order of equals
      const { x, y, energy } = alike.sort((a, b) => a.energy - b.energy)[PICK];
      const [has, wants] = [sum / count, energy / BLOCK ** 2];
      const part = wants > has ? Math.sqrt(1 - has / wants) : 0;
      for (const [at, j, i] of places) {
        const weight = ramp[j] * ramp[i];
        squares[at] += weight * weight;
        if (part) for (let c = 0; c < 3; c++) added[3 * at + c] += weight * part * fine[3 * ((y + j) * width + x + i) + c];
      }
    }
  }
  const known = hole.map((h) => (h ? 0 : 1));
  const depth = new Float64Array(hole.length);
  for (let k = 1; k <= GRAIN_FADE; k++) grown(known, width, height, k, constants).forEach((g, i) => (depth[i] += g ? 0 : 1));
  return added.map((v, n) => {
    const i = Math.floor(n / 3);
    return own[i] ? (v / Math.sqrt(Math.max(squares[i], 1))) * (depth[i] / GRAIN_FADE) : 0;
  });
}

// The picture less its mean over the known pixels within MEAN pixels, rounded down; zero where nothing is known.
function residual(picture, known, width, height, { MEAN }) {
  const sums = [0, 1, 2, 3].map((c) => integral(width, height, (i) => (known[i] ? (c < 3 ? picture[3 * i + c] : 1) : 0)));
  return Float64Array.from(picture, (v, n) => {
    const [i, c] = [Math.floor(n / 3), n % 3];
    if (!known[i]) return 0;
    const [x, y] = [i % width, Math.floor(i / width)];
    const around = [Math.max(0, x - MEAN), Math.max(0, y - MEAN), Math.min(width, x + MEAN + 1), Math.min(height, y + MEAN + 1)];
    return v - Math.floor(boxed(sums[c], width, around) / boxed(sums[3], width, around));
  });
}

// Sums of everything above and left of a corner of the pixels.
function integral(width, height, value) {
  const sums = new Float64Array((width + 1) * (height + 1));
  for (let y = 0; y < height; y++) {
    for (let [x, row] = [0, 0]; x < width; x++) {
      row += value(y * width + x);
      sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
    }
  }
  return sums;
}

const boxed = (sums, width, [x0, y0, x1, y1]) => {
  const at = (x, y) => sums[y * (width + 1) + x];
  return at(x1, y1) - at(x1, y0) - at(x0, y1) + at(x0, y0);
};

// Blocks that are all known, every quarter block; in each the sum of the squares, and those of the colours.
function sourcesOf(fine, filled, hole, width, height, { BLOCK }) {
  const unknown = integral(width, height, (i) => (hole[i] ? 1 : 0));
  const squares = integral(width, height, (i) => fine[3 * i] ** 2 + fine[3 * i + 1] ** 2 + fine[3 * i + 2] ** 2);
  const channels = [0, 1, 2].map((c) => integral(width, height, (i) => filled[3 * i + c]));
  const found = [];
  for (let y = 0; y + BLOCK <= height; y += BLOCK / 4) {
    for (let x = 0; x + BLOCK <= width; x += BLOCK / 4) {
      const block = [x, y, x + BLOCK, y + BLOCK];
      if (boxed(unknown, width, block)) continue;
      found.push({ x, y, energy: boxed(squares, width, block), colours: channels.map((sums) => boxed(sums, width, block)) });
    }
  }
  return found;
}

// A number from 0 to 2^32-1 that these decide, in no way that shows.
export function mixed(...numbers) {
  let state = 0x9e3779b9;
  for (const number of numbers) {
    state = Math.imul(state ^ Number(BigInt.asUintN(32, BigInt(number))), 0x85ebca6b) >>> 0;
    state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35) >>> 0;
    state = (state ^ (state >>> 16)) >>> 0;
  }
  return state;
}
