// The film of engine/moebius/pictures/seam.py, number for number: what is known around a hole, continued smoothly through it. Arrays
// of pixels are flat, `channels` numbers a pixel, three where nothing else is said; a hole has one byte a pixel. `constants` are plan.json's.

import { grown } from "./grown.js";

// The picture's pixels, and in the hole: film of the picture + fidelity·thickness·eased·(result - film of the result). `scale` is how many pixels
// here are one of the model.
export function matched(result, picture, hole, width, height, constants, scale = 1) {
  if (hole.every(Boolean)) return result; // there is no rim to match
  const remaining = remains(Float64Array.from(picture, (p, i) => p - result[i]), hole, width, height, constants);
  const rest = hole.map((h, i) => h || remaining[i]);
  const unknown = rest.every(Boolean) ? hole : rest;
  const [film, own] = [Float64Array.from(picture), Float64Array.from(result)];
  harmonic(film, unknown, width, height, constants);
  harmonic(own, unknown, width, height, constants);
  const worth = (scale > 1 ? fidelityByPlace : fidelity)(result, picture, hole, unknown, width, height, constants);
  const ease = eased(hole, width, height, constants);
  const shown = thickness(hole, width, height, scale, constants).map((t, i) => worth[i] * (t * ease[i]));
  const filled = Uint8ClampedArray.from(result, (v, i) => film[i] + shown[Math.floor(i / 3)] * (v - own[i])); // halves to even
  return Uint8Array.from(picture, (p, i) => (hole[Math.floor(i / 3)] ? filled[i] : p));
}

// The picture with its film in the hole.
export function film(picture, hole, width, height, constants) {
  if (hole.every(Boolean)) return picture;
  const filled = Float64Array.from(picture);
  harmonic(filled, hole, width, height, constants);
  return Uint8Array.from(Uint8ClampedArray.from(filled));
}

// From 0 in the hole's thin parts to 1 in the thick ones.
export function thickness(hole, width, height, scale, constants) {
  const { THIN, ROUND, FADE } = constants;
  const near = grown(hole.map((h) => (h ? 0 : 1)), width, height, THIN * scale, constants);
  const core = hole.map((h, i) => (h && !near[i] ? 1 : 0));
  const thick = Float64Array.from(grown(core, width, height, ROUND * scale, constants));
  if (!core.some(Boolean) || hole.every((h, i) => !h || thick[i])) return thick;
  for (let k = 1; k < FADE; k++) grown(core, width, height, (ROUND + k) * scale, constants).forEach((g, i) => (thick[i] += g));
  return thick.map((t) => t / FADE);
}

// A quarter at the hole's rim, and one from two pixels on.
function eased(hole, width, height, constants) {
  const { EASE } = constants;
  const known = hole.map((h) => (h ? 0 : 1));
  const ease = new Float64Array(hole.length);
  for (const radius of EASE) grown(known, width, height, radius, constants).forEach((g, i) => (ease[i] += g ? 0 : 1));
  return ease.map((e) => e / EASE.length);
}

// How much of the result's detail is the picture's where both are known, from 0 to 1: one number for every pixel.
function fidelity(result, picture, hole, unknown, width, height, constants) {
  const { sums } = slopes(result, picture, hole, unknown, width, height, Math.max(width, height), constants);
  return new Float64Array(hole.length).fill(worthOf(sums.map(([sum]) => sum), constants));
}

// The same for each part of the rim, the squares of PLACE pixels of one place and of those around it, and in the hole the film of that.
function fidelityByPlace(result, picture, hole, unknown, width, height, constants) {
  const { PLACE } = constants;
  const { sums, across, high } = slopes(result, picture, hole, unknown, width, height, PLACE, constants);
  const around = (each, row, column) => {
    let total = 0;
    for (let y = Math.max(0, row - 1); y < Math.min(high, row + 2); y++) {
      for (let x = Math.max(0, column - 1); x < Math.min(across, column + 2); x++) total += each[y * across + x];
    }
    return total;
  };
  const worths = Float64Array.from(sums[0], (_, i) => worthOf(sums.map((each) => around(each, Math.floor(i / across), i % across)), constants));
  const place = (i) => Math.floor(Math.floor(i / width) / PLACE) * across + Math.floor((i % width) / PLACE);
  const worth = Float64Array.from(hole, (_, i) => worths[place(i)]);
  harmonic(worth, unknown, width, height, constants, 1);
  return worth;
}

// Sums over the pairs of neighbours near the hole, by squares of this side: of the slopes' products, of the result's squares, and how many.
function slopes(result, picture, hole, unknown, width, height, side, constants) {
  const near = grown(hole, width, height, constants.NEAR, constants).map((n, i) => n && !unknown[i]);
  const [across, high] = [Math.ceil(width / side), Math.ceil(height / side)];
  const sums = [0, 0, 0].map(() => new Float64Array(across * high));
  const add = (here, there) => {
    if (!near[here] || !near[there]) return;
    const place = Math.floor(Math.floor(here / width) / side) * across + Math.floor((here % width) / side);
    for (let c = 0; c < 3; c++) {
      const slope = result[3 * here + c] - result[3 * there + c];
      sums[0][place] += (picture[3 * here + c] - picture[3 * there + c]) * slope;
      sums[1][place] += slope * slope;
      sums[2][place] += 1;
    }
  };
  for (let i = 0; i < hole.length; i++) {
    if (i >= width) add(i, i - width);
    if (i % width) add(i, i - 1);
  }
  return { sums, across, high };
}

function worthOf([product, square, count], { NOTHING }) {
  const nothing = count * NOTHING ** 2;
  return count ? Math.min(1, Math.max(0, (product + nothing) / (square + nothing))) : 1;
}

function disc(radius) {
  const reach = Math.floor(radius);
  const line = Array.from({ length: 2 * reach + 1 }, (_, k) => k - reach);
  return line.flatMap((dy) => line.map((dx) => [dx, dy])).filter(([dx, dy]) => dx * dx + dy * dy <= radius * radius);
}

// Pixels at the rim that show what was to be filled in: far off the known differences around them.
function remains(difference, hole, width, height, constants) {
  const { RIM, AROUND, OFF, SPREAD } = constants;
  const off = new Uint8Array(hole.length);
  const places = disc(AROUND);
  grown(hole, width, height, RIM, constants).forEach((near, i) => {
    if (!near || hole[i]) return;
    const around = places.map(([dx, dy]) => [(i % width) + dx, Math.floor(i / width) + dy]);
    const known = around.filter(([x, y]) => x >= 0 && x < width && y >= 0 && y < height && !hole[y * width + x]);
    for (let c = 0; c < 3; c++) {
      const values = known.map(([x, y]) => difference[3 * (y * width + x) + c]);
      const middle = median(values);
      const spread = median(values.map((v) => Math.abs(v - middle)));
      if (Math.abs(difference[3 * i + c] - middle) > OFF + SPREAD * spread) off[i] = 1;
    }
  });
  return off;
}

function median(values) {
  const ordered = values.sort((a, b) => a - b);
  return (ordered[(ordered.length - 1) >> 1] + ordered[ordered.length >> 1]) / 2;
}

// Puts the film into v's hole.
function harmonic(v, hole, width, height, constants, channels = 3) {
  for (let i = 0; i < v.length; i++) if (hole[Math.floor(i / channels)]) v[i] = 0;
  if (hole.some(Boolean)) fill(v, hole, width, height, constants, channels);
}

// The same where v is zero in the hole. Deeper than BAND pixels that of half the side is taken as it is.
function fill(v, hole, width, height, constants, channels, made = null) {
  const { CYCLES, SWEEPS, BAND } = constants;
  const near = grown(hole.map((h) => (h ? 0 : 1)), width, height, BAND, constants);
  const whole = hole.every((h, i) => !h || near[i]);
  const grid = made && whole ? made : gridOf(hole.map((h, i) => (h && near[i] ? 1 : 0)), width, height);
  const [wide, high] = [Math.ceil(width / 2), Math.ceil(height / 2)];
  const known = gathered(hole.map((h) => (h ? 0 : 1)), width, height, 1);
  const half = gathered(v, width, height, channels);
  for (let i = 0; i < half.length; i++) half[i] /= Math.max(known[Math.floor(i / channels)], 1);
  const inner = Uint8Array.from(known, (n) => (n ? 0 : 1));
  if (inner.some(Boolean)) fill(half, inner, wide, high, constants, channels, whole ? grid.coarse : null);
  const [{ here, ring }, four] = [grid, new Int32Array(4)];
  for (const i of here) {
    const nearest = Math.floor(Math.floor(i / width) / 2) * wide + Math.floor((i % width) / 2);
    for (let c = 0; c < channels; c++) v[channels * i + c] = half[channels * nearest + c];
  }
  if (!whole) {
    for (let i = 0; i < hole.length; i++) {
      if (!hole[i] || near[i]) continue;
      around(i, width, wide, high, four);
      for (let c = 0; c < channels; c++) v[channels * i + c] = mixed(half, four, 0, c, channels);
    }
  }
  const film = new Float64Array(channels * (here.length + ring.length));
  const pixel = (array, i) => array.subarray(channels * i, channels * (i + 1));
  here.forEach((i, k) => film.set(pixel(v, i), channels * k));
  ring.forEach((i, k) => film.set(pixel(v, i), channels * (here.length + k)));
  for (let n = 0; n < CYCLES; n++) cycle(grid, film, new Float64Array(channels * here.length), SWEEPS, channels);
  here.forEach((i, k) => v.set(pixel(film, k), channels * i));
}

// Sums over every 2×2 pixels.
function gathered(v, width, height, channels) {
  const wide = Math.ceil(width / 2);
  const sums = new Float64Array(channels * wide * Math.ceil(height / 2));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = channels * ((y >> 1) * wide + (x >> 1));
      for (let c = 0; c < channels; c++) sums[to + c] += v[channels * (y * width + x) + c];
    }
  }
  return sums;
}

// The four pixels of half the side around a pixel, nearest first, and the value between them.
function around(i, width, wide, high, four, at = 0) {
  const [px, py] = [i % width, Math.floor(i / width)];
  const [x, y] = [px >> 1, py >> 1];
  const beside = Math.min(wide - 1, Math.max(0, x + 2 * (px % 2) - 1));
  const below = Math.min(high - 1, Math.max(0, y + 2 * (py % 2) - 1));
  four[at] = y * wide + x;
  four[at + 1] = below * wide + x;
  four[at + 2] = y * wide + beside;
  four[at + 3] = below * wide + beside;
}

function mixed(half, four, at, c, channels) {
  const [nearest, below] = [half[channels * four[at] + c], half[channels * four[at + 1] + c]];
  const [beside, across] = [half[channels * four[at + 2] + c], half[channels * four[at + 3] + c]];
  return (9 * nearest + 3 * below + 3 * beside + across) / 16;
}

// The unknown pixels by number, their neighbours, and the pixels of half the side that are all unknown. Values are those of the unknown
// pixels and then of the ones around them, `ring`.
function gridOf(unknown, width, height) {
  const numbers = new Int32Array(unknown.length).fill(-1);
  const [here, ring] = [[], []];
  for (let i = 0; i < unknown.length; i++) if (unknown[i]) numbers[i] = here.push(i) - 1;
  const grid = { here: Int32Array.from(here), neighbours: new Int32Array(4 * here.length), outside: new Uint8Array(here.length) };
  const number = (i) => {
    if (numbers[i] < 0) numbers[i] = here.length + ring.push(i) - 1;
    return numbers[i];
  };
  here.forEach((i, k) => {
    const [x, y] = [i % width, Math.floor(i / width)]; // beyond the border a pixel is its own neighbour: it does not pull
    const four = [y ? i - width : i, y + 1 < height ? i + width : i, x ? i - 1 : i, x + 1 < width ? i + 1 : i];
    grid.outside[k] = four.filter((j) => j === i).length;
    four.forEach((j, n) => (grid.neighbours[4 * k + n] = number(j)));
  });
  grid.ring = Int32Array.from(ring);
  const colour = (i) => ((i % width) + Math.floor(i / width)) % 2; // of a chessboard
  grid.turns = [0, 1].map((turn) => Int32Array.from(here.keys()).filter((k) => colour(here[k]) === turn));
  const [wide, high] = [Math.ceil(width / 2), Math.ceil(height / 2)];
  const inner = Uint8Array.from(gathered(unknown.map((u) => (u ? 0 : 1)), width, height, 1), (n) => (n ? 0 : 1));
  if (!inner.some(Boolean)) return grid;
  grid.coarse = gridOf(inner, wide, high);
  const count = grid.coarse.here.length;
  const others = new Int32Array(inner.length).fill(count + grid.coarse.ring.length); // the last of the coarse ones stays zero
  grid.coarse.here.forEach((i, k) => (others[i] = k));
  grid.parts = new Int32Array(4 * count); // beyond the border lies zero
  grid.coarse.here.forEach((i, k) => {
    const [x, y] = [2 * (i % wide), 2 * Math.floor(i / wide)];
    [0, 1, 2, 3].forEach((n) => {
      const [px, py] = [x + (n % 2), y + (n >> 1)];
      grid.parts[4 * k + n] = px < width && py < height ? numbers[py * width + px] : here.length;
    });
  });
  grid.four = new Int32Array(4 * here.length);
  here.forEach((i, k) => around(i, width, wide, high, grid.four, 4 * k));
  grid.four = grid.four.map((i) => others[i]);
  return grid;
}

// Nearer to 4·v - (sum of the neighbours) = force at every unknown pixel.
function cycle(grid, v, force, sweeps, channels) {
  const { here, neighbours, coarse, parts, four } = grid;
  relax(grid, v, force, sweeps, channels);
  if (coarse) {
    const wrong = new Float64Array(channels * (here.length + 1));
    for (let k = 0; k < here.length; k++) {
      const [up, down, left, right] = [0, 1, 2, 3].map((n) => channels * neighbours[4 * k + n]);
      for (let c = 0; c < channels; c++) {
        const own = channels * k + c;
        wrong[own] = force[own] - (4 * v[own] - v[up + c] - v[down + c] - v[left + c] - v[right + c]);
      }
    }
    const total = new Float64Array(channels * coarse.here.length);
    for (let k = 0; k < coarse.here.length; k++) {
      for (let n = 0; n < 4; n++) for (let c = 0; c < channels; c++) total[channels * k + c] += wrong[channels * parts[4 * k + n] + c];
    }
    const missing = new Float64Array(channels * (coarse.here.length + coarse.ring.length + 1));
    cycle(coarse, missing, total, sweeps, channels);
    for (let k = 0; k < here.length; k++) {
      for (let c = 0; c < channels; c++) v[channels * k + c] += mixed(missing, four, 4 * k, c, channels);
    }
  }
  relax(grid, v, force, sweeps, channels);
}

function relax({ neighbours, outside, turns }, v, force, sweeps, channels) {
  for (let n = 0; n < sweeps; n++) {
    for (const turn of turns) {
      for (const k of turn) {
        const [up, down] = [channels * neighbours[4 * k], channels * neighbours[4 * k + 1]];
        const [left, right] = [channels * neighbours[4 * k + 2], channels * neighbours[4 * k + 3]];
        for (let c = 0; c < channels; c++) {
          const own = channels * k + c;
          const sum = v[up + c] + v[down + c] + v[left + c] + v[right + c];
          v[own] = (sum - outside[k] * v[own] + force[own]) / (4 - outside[k]);
        }
      }
    }
  }
}
