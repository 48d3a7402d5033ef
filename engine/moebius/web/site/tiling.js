// Where to work: the windows of engine/moebius/pictures/windows.py (`auto`), pictures/islands.py and pictures/tiling.py beside it, the same
// squares in the same order. A square is [x, y, side]. `constants` are plan.json's.

import { cellsOf, grown } from "./grown.js";

// The windows that fill in what `mask` marks, to be put back in this order: {x, y, side, size, cells, index, before}. A window fills the
// marked pixels of those cells that hold its index; `before` are, of several that fill one island, those put back before it, else null.
export function windowsOf(mask, size, constants, most = constants.MOST) {
  const { BLUR_RADIUS, CONTEXT, SHARED_CONTEXT } = constants;
  const reach = support(BLUR_RADIUS);
  const { cells, boxes } = islandsOf(mask, 2 * reach, constants);
  let longest = size - 2 * Math.max(Math.floor(size / SHARED_CONTEXT), reach);
  let groups = grouped(boxes, longest);
  while (groups.length > most) {
    longest = 2 * Math.max(longest, size);
    groups = grouped(boxes, longest);
  }
  let left = most - groups.length;
  const squares = [];
  const groupOf = new Int32Array(boxes.length + 1).fill(-1); // by label; 0 are empty cells
  groups.forEach(({ members, box }, index) => {
    const [x0, y0, x1, y1] = box;
    const alone = squareAround(box, mask, size, constants);
    let several = [];
    if (members.length === 1 && Math.max(x1 - x0, y1 - y0) + 2 * Math.max(Math.floor(size / CONTEXT), reach) > size) {
      const own = { data: ownOf(mask, { cells, index: members[0] + 1 }, box, constants), width: x1 - x0, height: y1 - y0 };
      several = tiled(own, mask, [x0, y0], size, alone[2], reach, 1 + left, constants);
      left -= Math.max(0, several.length - 1);
    }
    for (const square of several.length ? several : [alone]) squares.push({ square, index, several: several.length > 0 });
    for (const member of members) groupOf[member + 1] = index;
  });
  squares.sort((a, b) => b.square[2] - a.square[2] || a.square[1] - b.square[1] || a.square[0] - b.square[0] || a.index - b.index);
  const byGroup = cells.map((label) => groupOf[label]);
  return squares.map(({ square, index, several }, n) => {
    const [x, y, side] = square;
    const meet = ([left, top, other]) => left < x + side && x < left + other && top < y + side && y < top + other;
    const before = several ? squares.slice(0, n).filter((s) => s.index === index && meet(s.square)).map((s) => s.square) : null;
    return { x, y, side, size, cells: byGroup, index, before };
  });
}

// The square to work on for a box of the picture: at the picture's own resolution where it leaves size/CONTEXT around that on every side;
// else scaled.
export function squareAround([x0, y0, x1, y1], { width, height }, size, { BLUR_RADIUS, CONTEXT, SCALED }) {
  const reach = support(BLUR_RADIUS);
  const longest = Math.max(x1 - x0, y1 - y0);
  let side = size;
  if (longest + 2 * Math.max(Math.floor(size / CONTEXT), reach) > size) {
    side = Math.min(Math.max(Math.ceil((longest * SCALED[0]) / SCALED[1]), longest + 2 * reach, size), Math.max(width, height, size));
  }
  const placed = (first, last, length) =>
    side >= length ? -Math.floor((side - length) / 2) : Math.min(Math.max(0, Math.floor((first + last - side) / 2)), length - side);
  return [placed(x0, x1, width), placed(y0, y1, height), side];
}

// How many pixels a Gaussian blur reaches.
export const support = (radius) => 3 * (Math.floor((Math.sqrt(4 * radius * radius + 1) - 1) / 2) + 1);

// What a window fills of the pixels of a box [x0, y0, x1, y1]: 1 or 0. A window without cells fills all that is marked.
export function ownOf(mask, { cells, index }, [x0, y0, x1, y1], { CELL }) {
  const across = Math.ceil(mask.width / CELL);
  const own = new Uint8Array((x1 - x0) * (y1 - y0));
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      if (mask.data[y * mask.width + x] && (!cells || cells[Math.floor(y / CELL) * across + Math.floor(x / CELL)] === index)) {
        own[(y - y0) * (x1 - x0) + x - x0] = 1;
      }
    }
  }
  return own;
}

// How much a window's result counts at a pixel of the picture against those put there before it, 0 to 255.
export function share({ x, y, side, before }, picture, column, row, constants) {
  const mine = rising([x, y, side], picture, column, row, constants);
  const total = before.reduce((sum, square) => sum + rising(square, picture, column, row, constants), mine);
  return Math.floor((2 * 255 * mine + total) / Math.max(2 * total, 1)); // rounded
}

function rising([x, y, side], { width, height }, column, row, { EDGE, RAMP }) {
  if (column < x || column >= x + side || row < y || row >= y + side) return 0;
  const [edge, most] = [Math.floor(side / EDGE), Math.floor(side / RAMP)];
  const line = (at, first, length) => {
    const low = first > 0 ? at - first - edge : most;
    const high = first + side < length ? first + side - 1 - at - edge : most;
    return Math.min(most, Math.max(0, Math.min(low, high)));
  };
  return Math.min(line(column, x, width), line(row, y, height));
}

// Islands -------------------------------------------------------------------------------------------------------------

// Labels of cells, from 1 up and 0 for empty ones, and each label's box: what few empty cells part has one label.
export function islandsOf({ data, width, height }, gap, constants, CELL = constants.CELL) {
  const [across, high] = [Math.ceil(width / CELL), Math.ceil(height / CELL)];
  const found = new Map(); // by cell: the box of its marked pixels
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!data[y * width + x]) continue;
      const cell = Math.floor(y / CELL) * across + Math.floor(x / CELL);
      const box = found.get(cell);
      if (box) [box[0], box[2], box[3]] = [Math.min(box[0], x), Math.max(box[2], x + 1), y + 1];
      else found.set(cell, [x, y, x + 1, y + 1]);
    }
  }
  const around = Math.max(1, Math.ceil((gap - CELL) / (2 * CELL)));
  const spread = new Uint8Array(across * high);
  for (const cell of found.keys()) {
    const [x, y] = [cell % across, Math.floor(cell / across)];
    for (let j = Math.max(0, y - around); j <= Math.min(high - 1, y + around); j++) {
      spread.fill(1, j * across + Math.max(0, x - around), j * across + Math.min(across, x + around + 1));
    }
  }
  const labels = new Int32Array(across * high);
  const boxes = [];
  for (let start = 0; start < spread.length; start++) {
    if (!spread[start] || labels[start]) continue;
    const [label, rest] = [boxes.push([width, height, 0, 0]), [start]];
    labels[start] = label;
    while (rest.length) {
      const cell = rest.pop();
      const [x, y] = [cell % across, Math.floor(cell / across)];
      for (let j = Math.max(0, y - 1); j <= Math.min(high - 1, y + 1); j++) {
        for (let i = Math.max(0, x - 1); i <= Math.min(across - 1, x + 1); i++) {
          const other = j * across + i;
          if (spread[other] && !labels[other]) {
            labels[other] = label;
            rest.push(other);
          }
        }
      }
    }
  }
  const cells = new Int32Array(labels.length);
  for (const [cell, box] of found) {
    cells[cell] = labels[cell];
    boxes[labels[cell] - 1] = joined(boxes[labels[cell] - 1], box);
  }
  return { cells, boxes };
}

const joined = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];

// Each island joins the group whose box stays smallest with it, if no side exceeds `longest`.
export function grouped(boxes, longest) {
  const groups = [];
  boxes.forEach((box, i) => {
    let [best, least] = [null, Infinity];
    for (const group of groups) {
      const [x0, y0, x1, y1] = joined(group.box, box);
      if (x1 - x0 > longest || y1 - y0 > longest || (x1 - x0) * (y1 - y0) >= least) continue;
      [best, least] = [group, (x1 - x0) * (y1 - y0)];
    }
    if (best) {
      best.members.push(i);
      best.box = joined(best.box, box);
    } else {
      groups.push({ members: [i], box });
    }
  });
  return groups;
}

// Several windows for one island --------------------------------------------------------------------------------------

// The squares that cover `own`, which lies at `corner` of the picture; none where one window, `one` pixels a side, is better.
function tiled(own, picture, corner, size, one, reach, most, constants) {
  const { SCALES, REACHED, ROUNDED, STEP, RAMP, WORTH } = constants;
  const worth = (side) => side * WORTH[1] < one * WORTH[0];
  const around = (boxes) => {
    const squares = boxes.map((box) => squareOf(box, picture, corner, size, reach, constants));
    return squares.every((square) => worth(square[2])) ? squares : null; // null where one is not worth having
  };
  const cells = cellsOf(own.data, own.width, own.height, constants);
  for (const scale of SCALES) {
    const side = Math.floor(size * scale);
    if (!worth(side)) break;
    const radius = side / REACHED;
    if (reach > Math.floor(side / RAMP) || !around(surelyCore(cells, radius, constants))) continue;
    const core = coreOf(own, radius, constants);
    let [rest, squares] = [own, []];
    if (core.includes(1)) {
      if (!around(islandsOf({ ...own, data: core }, 0, constants).boxes)) continue;
      const thick = grown(core, own.width, own.height, ROUNDED * radius, constants);
      for (let i = 0; i < thick.length; i++) thick[i] &= own.data[i];
      squares = around(islandsOf({ ...own, data: thick }, 0, constants).boxes);
      for (let i = 0; i < thick.length; i++) thick[i] = own.data[i] && !thick[i] ? 1 : 0;
      rest = { ...own, data: thick };
    }
    if (!squares || squares.length > most) continue;
    const step = Math.floor(Math.floor(Math.floor((size * STEP[0]) / STEP[1]) / 8) * 8 * scale);
    const covering = cover(rest, picture, corner, side, step, reach, most - squares.length, squares, constants);
    if (covering) return [...squares, ...covering];
  }
  return [];
}

// What of a hole is farther than `radius` from all that is known, as is all around it.
function coreOf({ data, width, height }, radius, constants) {
  const across = width + 2;
  const known = new Uint8Array(across * (height + 2)).fill(1);
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) known[(y + 1) * across + x + 1] = data[i] ? 0 : 1;
  const near = grown(known, across, height + 2, radius, constants);
  const core = new Uint8Array(data.length);
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) core[i] = near[(y + 1) * across + x + 1] ? 0 : 1;
  return core;
}

// Boxes in the core, each of which lies in one island of it, from the cells that are wholly the hole's.
function surelyCore({ whole, across, high }, radius, constants) {
  const far = coreOf({ data: whole, width: across, height: high }, (radius + constants.SLACK) / constants.CELL, constants);
  return islandsOf({ data: far, width: across, height: high }, 0, constants, 1).boxes.map((box) => box.map((n) => constants.CELL * n));
}

// The square around a box of the hole, all of which it holds.
function squareOf([x0, y0, x1, y1], { width, height }, [left, top], size, reach, constants) {
  const longest = Math.max(x1 - x0, y1 - y0);
  let side = size;
  while (side - 2 * rim(side, reach, constants) < longest) side++;
  const at = (first, low, high, length) => inside(first + Math.floor((low + high - side) / 2), side, length);
  return [at(left, x0, x1, width), at(top, y0, y1, height), side];
}

const rim = (side, reach, { RAMP, EDGE }) => Math.max(Math.floor(side / RAMP), Math.floor(side / EDGE) + reach + 1);
const inside = (first, side, length) => (side >= length ? -Math.floor((side - length) / 2) : Math.min(Math.max(0, first), length - side));

// A window around every marked cell of a lattice, but for those whose pixels others hold as well, or one as sharp that is `there` already;
// null where these are more than `most`.
function cover(own, picture, [left, top], side, step, reach, most, there, constants) {
  const [rows, columns] = [Math.ceil(own.height / step), Math.ceil(own.width / step)];
  const [beforeY, beforeX] = [Math.floor((rows * step - own.height) / 2), Math.floor((columns * step - own.width) / 2)];
  const found = new Map(); // by square: how many pixels it is there for
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [x, y] = [column * step - beforeX, row * step - beforeY];
      let marks = 0;
      for (let j = Math.max(0, y); j < Math.min(own.height, y + step); j++) {
        for (let i = Math.max(0, x); i < Math.min(own.width, x + step); i++) marks += own.data[j * own.width + i];
      }
      if (!marks) continue;
      const margin = Math.floor((side - step) / 2);
      const key = [inside(left + x - margin, side, picture.width), inside(top + y - margin, side, picture.height), side].join();
      found.set(key, (found.get(key) ?? 0) + marks);
    }
  }
  const holds = new Uint16Array(own.data.length);
  const add = (square, one) => {
    const [x0, x1, y0, y1] = held(square);
    for (let j = y0; j < y1; j++) for (let i = x0; i < x1; i++) holds[j * own.width + i] += one;
  };
  const needed = (square) => {
    const [x0, x1, y0, y1] = held(square);
    for (let j = y0; j < y1; j++) for (let i = x0; i < x1; i++) if (own.data[j * own.width + i] && holds[j * own.width + i] < 2) return true;
    return false;
  };
  const held = ([x, y, length]) => [...span(x, length, left, picture.width, own.width), ...span(y, length, top, picture.height, own.height)];
  const span = (first, length, start, whole, most) => {
    const edge = rim(length, reach, constants);
    const low = first <= 0 ? first : first + edge;
    const high = first + length >= whole ? first + length : first + length - edge;
    return [Math.max(0, low - start), Math.min(most, Math.max(0, high - start))];
  };
  const squares = [...found].map(([key, marks]) => ({ square: key.split(",").map(Number), marks }));
  for (const square of [...squares.map((s) => s.square), ...there.filter((s) => s[2] <= side)]) add(square, 1);
  const placed = (a, b) => a[1] - b[1] || a[0] - b[0];
  const kept = [];
  for (const { square } of squares.sort((a, b) => a.marks - b.marks || placed(a.square, b.square))) {
    if (!needed(square)) add(square, -1);
    else if (kept.push(square) > most) return null;
  }
  return kept.sort(placed);
}
