// Pictures as arrays, as engine/moebius/pictures/windows.py, engine/moebius/pictures/cut.py, engine/moebius/pictures/blend.py and
// engine/moebius/pictures/mask.py have them. A picture is {data, width, height} with three bytes a pixel, a mask the same with one, 0 or 1.
// Of one that was cut out of a larger picture, `left` and `top` say where. `constants` are plan.json's.

import { grain, mixed } from "./grain.js";
import { film, matched, thickness } from "./seam.js";
import { ownOf, share, squareAround, support } from "./tiling.js";

const ONE = 2 ** 22; // Pillow's, in the weights of its resizing
const NO_DETAIL = { part: 0, seed: 0 };

// The square around all that is marked; null where nothing is.
export function windowOf(mask, size, constants) {
  const box = bounds(mask);
  if (!box) return null;
  const [x, y, side] = squareAround(box, mask, size, constants);
  return { x, y, side, size };
}

export function bounds({ data, width, height }) {
  let [x0, y0, x1, y1] = [width, height, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x]) [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x + 1), y + 1];
    }
  }
  return x1 > x0 ? [x0, y0, x1, y1] : null;
}

// The window as the model sees it: x, the pixels from -1 to 1, and m, 1 where any pixel under it is marked. Outside the
// picture lies its reflection.
export function cut(picture, mask, { x, y, side, size }, { LANCZOS }) {
  const [columns, rows] = [reflected(x, side, picture.width), reflected(y, side, picture.height)];
  let rgb = { data: new Uint8Array(3 * side * side), width: side, height: side };
  const m = new Uint8Array(size * size);
  for (let j = 0; j < side; j++) {
    for (let i = 0; i < side; i++) {
      const from = rows[j] * picture.width + columns[i];
      for (let c = 0; c < 3; c++) rgb.data[3 * (j * side + i) + c] = picture.data[3 * from + c];
    }
  }
  for (let j = 0; j < size; j++) {
    for (let i = 0; i < size; i++) m[j * size + i] = anyOf(mask, columns, rows, i, j, side / size);
  }
  if (side !== size) rgb = resized(rgb, size, LANCZOS, side > picture.width);
  return { rgb, x: Float32Array.from(rgb.data, (v) => (v / 255) * 2 - 1), m };
}

function anyOf(mask, columns, rows, i, j, scale) {
  for (let y = Math.floor(j * scale); y < Math.ceil((j + 1) * scale); y++) {
    for (let x = Math.floor(i * scale); x < Math.ceil((i + 1) * scale); x++) {
      if (mask.data[rows[y] * mask.width + columns[x]]) return 1;
    }
  }
  return 0;
}

export function reflected(start, length, n) {
  return Array.from({ length }, (_, k) => {
    if (n === 1) return 0;
    const period = 2 * n - 2;
    const i = (((start + k) % period) + period) % period;
    return Math.min(i, period - i);
  });
}

// The model's pixels as bytes: ⌊255·clip((x+1)/2, 0, 1)⌋ in float32, as published.
export function toBytes(x) {
  const round = Math.fround;
  return Uint8Array.from(x, (v) => round(Math.min(1, Math.max(0, round(round(v + 1) / 2))) * 255));
}

// The picture with the window's result blended in, at the picture's resolution: enlarged, then joined ("match": the colours at the seam,
// with no blur) or pasted through the blurred mask: ⌊(result·w + picture·(255-w)) / 255⌋. Without a result "match" has the film alone.
export function pasted(picture, mask, result, window, blend, constants, detail = NO_DETAIL) {
  const into = { ...picture, data: picture.data.slice() };
  putBack(into, picture, mask, result, window, blend, constants, detail);
  return into;
}

// The same into a copy of the picture that has other windows' results already: of several that fill one island, each shows as its share says.
export function putBack(into, picture, mask, result, window, blend, constants, detail = NO_DETAIL) {
  const { BLUR_RADIUS, LANCZOS } = constants;
  const { x, y, side, size } = window;
  const [left, top, right, bottom] = insideOf(window, picture);
  const own = ownOf(mask, window, [left, top, right, bottom], constants);
  const tight = bounds({ data: own, width: right - left, height: bottom - top });
  if (!tight) return;
  const [match, scaled] = [blend === "match", side !== size];
  const reach = match ? 0 : support((BLUR_RADIUS * side) / size);
  const [x0, y0] = [Math.max(left, left + tight[0] - reach), Math.max(top, top + tight[1] - reach)];
  const [x1, y1] = [Math.min(right, left + tight[2] + reach), Math.min(bottom, top + tight[3] + reach)];
  const [wide, high] = [x1 - x0, y1 - y0];
  let weights = new Uint8Array(wide * high);
  for (let j = 0; j < high; j++) {
    for (let i = 0; i < wide; i++) weights[j * wide + i] = own[(y0 + j - top) * (right - left) + x0 + i - left] ? 255 : 0;
  }
  let back;
  if (!result) back = new Uint8Array(3 * side * side);
  else back = scaled ? resized(result, side, LANCZOS).data : result.data;
  if (!match) {
    weights = blurred(weights, wide, high, (BLUR_RADIUS * side) / size);
  } else {
    if (result && !scaled) {
      const { rgb, m } = cut(picture, mask, window, constants);
      back = matched(back, rgb.data, m, side, side, constants);
    } else {
      back = joined(picture, mask, back, !result, [x0, y0, x1, y1], window, constants);
    }
    if (result && detail.part) back = withGrain(picture, mask, back, weights, [x0, y0, x1, y1], window, detail, constants);
  }
  for (let j = 0; j < high; j++) {
    for (let i = 0; i < wide; i++) {
      const w = weights[j * wide + i];
      if (!w) continue;
      const [to, from] = [3 * ((y0 + j) * picture.width + x0 + i), 3 * ((y0 + j - y) * side + x0 + i - x)];
      const part = window.before ? share(window, picture, x0 + i, y0 + j, constants) : 0;
      for (let c = 0; c < 3; c++) {
        const base = (window.before ? picture : into).data[to + c];
        const filled = Math.floor((back[from + c] * w + base * (255 - w)) / 255);
        into.data[to + c] = window.before ? Math.floor((filled * part + into.data[to + c] * (255 - part)) / 255) : filled;
      }
    }
  }
}

// The part of the picture that a window covers, [x0, y0, x1, y1].
function insideOf({ x, y, side }, { width, height }) {
  return [Math.max(0, x), Math.max(0, y), Math.min(width, x + side), Math.min(height, y + side)];
}

// A window's square, matched, and so much of the grain around what it fills of a box (where `own` is not 0) as the hole is thick.
function withGrain(picture, mask, back, own, [x0, y0, x1, y1], { x, y, side, size }, { part, seed }, constants) {
  const { BEYOND } = constants;
  const [left, top] = [Math.max(0, x0 - BEYOND), Math.max(0, y0 - BEYOND)];
  const [wide, high] = [Math.min(picture.width, x1 + BEYOND) - left, Math.min(picture.height, y1 + BEYOND) - top];
  const [filled, hole, mine] = [new Uint8Array(3 * wide * high), new Uint8Array(wide * high), new Uint8Array(wide * high)];
  for (let j = y0; j < y1; j++) {
    for (let i = x0; i < x1; i++) mine[(j - top) * wide + i - left] = own[(j - y0) * (x1 - x0) + i - x0] ? 1 : 0;
  }
  const inSquare = (i) => 3 * ((top + Math.floor(i / wide) - y) * side + left + (i % wide) - x);
  for (let i = 0; i < hole.length; i++) {
    const at = (top + Math.floor(i / wide)) * picture.width + left + (i % wide);
    hole[i] = mask.data[at];
    for (let c = 0; c < 3; c++) filled[3 * i + c] = mine[i] ? back[inSquare(i) + c] : picture.data[3 * at + c];
  }
  const thick = thickness(hole, wide, high, side / size, constants);
  const added = grain(filled, mine, hole, wide, high, mixed(seed, x + (picture.left ?? 0), y + (picture.top ?? 0)), constants);
  const exact = Uint8ClampedArray.from(filled, (v, n) => v + added[n] * (part * thick[Math.floor(n / 3)])); // halves to even
  const out = back.slice();
  for (let i = 0; i < hole.length; i++) if (mine[i]) for (let c = 0; c < 3; c++) out[inSquare(i) + c] = exact[3 * i + c];
  return out;
}

// Whether "match" has the film alone in all that the window fills, whatever a model would make of it.
export function isThin(mask, window, constants) {
  const box = insideOf(window, mask);
  const thick = thickness(ownOf(mask, {}, box, constants), box[2] - box[0], box[3] - box[1], window.side / window.size, constants);
  return !ownOf(mask, window, box, constants).some((own, i) => own && thick[i]);
}

// A scaled window's result, enlarged, matched where the picture is: in a box and MARGIN pixels around. Or the film there.
function joined(picture, mask, back, alone, [x0, y0, x1, y1], window, constants) {
  const { MARGIN: margin } = constants;
  const { x, y, side, size } = window;
  const [left, top, right, bottom] = insideOf(window, picture);
  const [first, last] = [[Math.max(left, x0 - margin), Math.max(top, y0 - margin)], [Math.min(right, x1 + margin), Math.min(bottom, y1 + margin)]];
  const [wide, high] = [last[0] - first[0], last[1] - first[1]];
  const [fill, known, hole] = [new Uint8Array(3 * wide * high), new Uint8Array(3 * wide * high), new Uint8Array(wide * high)];
  for (let j = 0; j < high; j++) {
    const at = (first[1] + j) * picture.width + first[0];
    const from = 3 * ((first[1] + j - y) * side + first[0] - x);
    fill.set(back.subarray(from, from + 3 * wide), 3 * j * wide);
    known.set(picture.data.subarray(3 * at, 3 * (at + wide)), 3 * j * wide);
    hole.set(mask.data.subarray(at, at + wide), j * wide);
  }
  const got = alone ? film(known, hole, wide, high, constants) : matched(fill, known, hole, wide, high, constants, side / size);
  for (let j = 0; j < high; j++) back.set(got.subarray(3 * j * wide, 3 * (j + 1) * wide), 3 * ((first[1] + j - y) * side + first[0] - x));
  return back;
}

// Square pictures by Lanczos with so many lobes: Pillow's arithmetic, columns first (or rows), in whole numbers of 2^-22, rounded in between.
export function resized({ data, width }, size, lobes, rowsFirst = false) {
  const taps = lanczos(width, size, lobes);
  const pass = (from, wide, high) => {
    const out = new Uint8Array(3 * size * high); // transposed, so that twice is once each way
    for (let y = 0; y < high; y++) {
      for (let i = 0; i < size; i++) {
        const { first, weights } = taps[i];
        for (let c = 0; c < 3; c++) {
          let sum = ONE / 2;
          for (let k = 0; k < weights.length; k++) sum += weights[k] * from[3 * (y * wide + first + k) + c];
          out[3 * (i * high + y) + c] = Math.min(255, Math.max(0, Math.floor(sum / ONE)));
        }
      }
    }
    return out;
  };
  const both = (from) => pass(pass(from, width, width), width, size);
  return { data: rowsFirst ? flipped(both(flipped(data, width, width, 3)), size, size, 3) : both(data), width: size, height: size };
}

function flipped(from, wide, high, channels) {
  const out = new Uint8Array(from.length);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) for (let c = 0; c < channels; c++) out[channels * (x * high + y) + c] = from[channels * (y * wide + x) + c];
  }
  return out;
}

function lanczos(from, to, lobes) {
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const reach = lobes * stretch;
  const sinc = (v) => (v === 0 ? 1 : Math.sin(Math.PI * v) / (Math.PI * v));
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let k = first; k < last; k++) {
      const v = (k - centre + 0.5) / stretch;
      weights.push(Math.abs(v) < lobes ? sinc(v) * sinc(v / lobes) : 0);
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => Math.sign(w) * Math.floor(Math.abs(w / sum) * ONE + 0.5)) };
  });
}

// Pillow's, whose floats are 32 bits wide.
function boxRadius(radius) {
  const f = Math.fround;
  const variance = f(f(f(radius) * f(radius)) / 3);
  const whole = Math.floor(f((f(Math.sqrt(12 * variance + 1)) - 1) / 2));
  const fraction = f(f((2 * whole + 1) * f(whole * (whole + 1) - f(3 * variance))) / f(6 * f(variance - (whole + 1) ** 2)));
  return f(whole + fraction);
}

// Pillow's GaussianBlur: three box blurs a direction, with a fraction at their ends, rounded after each.
export function blurred(bytes, width, height, radius) {
  const box = boxRadius(radius);
  const whole = Math.floor(box);
  const middle = Math.floor(2 ** 24 / Math.fround(box * 2 + 1));
  const end = Math.floor((2 ** 24 - (2 * whole + 1) * middle) / 2);
  const pass = (from, wide, high) => {
    const out = new Uint8Array(from.length);
    for (let y = 0; y < high; y++) {
      const at = (x) => from[y * wide + Math.min(wide - 1, Math.max(0, x))];
      let sum = 0;
      for (let x = -whole; x <= whole; x++) sum += at(x);
      for (let x = 0; x < wide; x++) {
        out[y * wide + x] = Math.floor((sum * middle + (at(x - whole - 1) + at(x + whole + 1)) * end + 2 ** 23) / 2 ** 24);
        sum += at(x + whole + 1) - at(x - whole);
      }
    }
    return out;
  };
  let out = bytes;
  for (let n = 0; n < 3; n++) out = pass(out, width, height);
  out = flipped(out, width, height, 1);
  for (let n = 0; n < 3; n++) out = pass(out, height, width);
  return flipped(out, height, width, 1);
}
