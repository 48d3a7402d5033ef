// The film of engine/moebius/pictures/seam.py, number for number: what is known around a hole, continued smoothly through it. Arrays
// of pixels are flat, three channels a pixel; a hole has one byte a pixel. `constants` are plan.json's.

// The picture's pixels, and in the hole: film of the picture + fidelity·(result - film of the result).
export function matched(result, picture, hole, width, height, constants) {
  if (hole.every(Boolean)) return result; // there is no rim to match
  const remaining = remains(Float64Array.from(picture, (p, i) => p - result[i]), hole, width, height, constants);
  const rest = hole.map((h, i) => h || remaining[i]);
  const unknown = rest.every(Boolean) ? hole : rest;
  const [film, own] = [Float64Array.from(picture), Float64Array.from(result)];
  harmonic(film, unknown, width, height, constants);
  harmonic(own, unknown, width, height, constants);
  const kept = fidelity(result, picture, hole, unknown, width, height, constants);
  const filled = Uint8ClampedArray.from(result, (v, i) => film[i] + kept * (v - own[i])); // to the nearest, halves to even ones
  return Uint8Array.from(picture, (p, i) => (hole[Math.floor(i / 3)] ? filled[i] : p));
}

// How much of the result's detail is the picture's where both are known, from 0 to 1.
function fidelity(result, picture, hole, unknown, width, height, { NEAR, NOTHING }) {
  const near = grown(hole, width, height, NEAR).map((n, i) => n && !unknown[i]);
  let [product, square, count] = [0, 0, 0];
  const add = (here, there) => {
    if (!near[here] || !near[there]) return;
    for (let c = 0; c < 3; c++) {
      const slope = result[3 * here + c] - result[3 * there + c];
      product += (picture[3 * here + c] - picture[3 * there + c]) * slope;
      square += slope * slope;
      count += 1;
    }
  };
  for (let i = 0; i < hole.length; i++) {
    if (i >= width) add(i, i - width);
    if (i % width) add(i, i - 1);
  }
  const nothing = count * NOTHING ** 2;
  return count ? Math.min(1, Math.max(0, (product + nothing) / (square + nothing))) : 1;
}

// All pixels within `radius` of a marked one.
export function grown(marked, width, height, radius) {
  const out = new Uint8Array(marked.length);
  const places = disc(radius);
  for (let i = 0; i < marked.length; i++) {
    if (marked[i]) for (const [dx, dy] of places) {
      const [x, y] = [(i % width) + dx, Math.floor(i / width) + dy];
      if (x >= 0 && x < width && y >= 0 && y < height) out[y * width + x] = 1;
    }
  }
  return out;
}

function disc(radius) {
  const reach = Math.floor(radius);
  const line = Array.from({ length: 2 * reach + 1 }, (_, k) => k - reach);
  return line.flatMap((dy) => line.map((dx) => [dx, dy])).filter(([dx, dy]) => dx * dx + dy * dy <= radius * radius);
}

// Pixels at the rim that show what was to be filled in: far off the known differences around them.
function remains(difference, hole, width, height, { RIM, AROUND, OFF, SPREAD }) {
  const off = new Uint8Array(hole.length);
  const places = disc(AROUND);
  grown(hole, width, height, RIM).forEach((near, i) => {
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
function harmonic(v, hole, width, height, constants) {
  for (let i = 0; i < v.length; i++) if (hole[Math.floor(i / 3)]) v[i] = 0;
  if (hole.some(Boolean)) fill(gridOf(hole, width, height), v, constants);
}

// The same where v is zero in the hole.
function fill(grid, v, { CYCLES, SWEEPS }) {
  const start = gathered(v, grid);
  for (let i = 0; i < start.length; i++) start[i] /= Math.max(grid.half.known[Math.floor(i / 3)], 1);
  if (grid.coarse) fill(grid.coarse, start, { CYCLES, SWEEPS });
  for (const here of grid.here) for (let c = 0; c < 3; c++) v[3 * here + c] = start[3 * cellOf(grid, here) + c];
  for (let n = 0; n < CYCLES; n++) cycle(grid, v, new Float64Array(v.length), SWEEPS);
}

function gridOf(hole, width, height) {
  const half = { width: Math.ceil(width / 2), height: Math.ceil(height / 2) };
  half.known = new Uint8Array(half.width * half.height); // how many of the pixels in one
  const grid = { width, height, half, here: [], around: [] };
  for (let i = 0; i < hole.length; i++) {
    if (!hole[i]) half.known[cellOf(grid, i)]++;
    else grid.here.push(i);
  }
  half.hole = half.known.map((n) => n === 0);
  grid.around = grid.here.map((i) => {
    const [x, y] = [i % width, Math.floor(i / width)]; // beyond the border a pixel is its own neighbour: it does not pull
    return [y ? i - width : i, y + 1 < height ? i + width : i, x ? i - 1 : i, x + 1 < width ? i + 1 : i];
  });
  grid.outside = grid.here.map((i, k) => grid.around[k].filter((j) => j === i).length);
  const colour = (i) => ((i % width) + Math.floor(i / width)) % 2; // of a chessboard
  grid.turns = [0, 1].map((turn) => [...grid.here.keys()].filter((k) => colour(grid.here[k]) === turn));
  if (half.hole.some(Boolean)) grid.coarse = gridOf(half.hole, half.width, half.height);
  return grid;
}

const cellOf = ({ width, half }, i) => Math.floor(Math.floor(i / width) / 2) * half.width + Math.floor((i % width) / 2);

// Sums over every 2×2 pixels.
function gathered(v, grid) {
  const sums = new Float64Array(3 * grid.half.width * grid.half.height);
  for (let i = 0; i < grid.width * grid.height; i++) for (let c = 0; c < 3; c++) sums[3 * cellOf(grid, i) + c] += v[3 * i + c];
  return sums;
}

// Nearer to 4·v - (sum of the neighbours) = force at every unknown pixel.
function cycle(grid, v, force, sweeps) {
  const { here, around, coarse, half } = grid;
  relax(grid, v, force, sweeps);
  if (coarse) {
    const wrong = new Float64Array(v.length);
    here.forEach((i, k) => {
      const [up, down, left, right] = around[k];
      for (let c = 0; c < 3; c++) {
        wrong[3 * i + c] = force[3 * i + c] - (4 * v[3 * i + c] - v[3 * up + c] - v[3 * down + c] - v[3 * left + c] - v[3 * right + c]);
      }
    });
    const missing = new Float64Array(3 * half.width * half.height);
    cycle(coarse, missing, gathered(wrong, grid), sweeps);
    const beside = (at, n, pixel) => Math.min(n - 1, Math.max(0, at + 2 * (pixel % 2) - 1));
    for (const i of here) {
      const [px, py] = [i % grid.width, Math.floor(i / grid.width)];
      const [x, y] = [Math.floor(px / 2), Math.floor(py / 2)];
      const [across, below] = [beside(x, half.width, px), beside(y, half.height, py)];
      const at = (row, column, c) => missing[3 * (row * half.width + column) + c];
      for (let c = 0; c < 3; c++) v[3 * i + c] += (9 * at(y, x, c) + 3 * at(below, x, c) + 3 * at(y, across, c) + at(below, across, c)) / 16;
    }
  }
  relax(grid, v, force, sweeps);
}

function relax({ here, around, outside, turns }, v, force, sweeps) {
  for (let n = 0; n < sweeps; n++) {
    for (const turn of turns) {
      for (const k of turn) {
        const [i, self, [up, down, left, right]] = [here[k], outside[k], around[k]];
        for (let c = 0; c < 3; c++) {
          const sum = v[3 * up + c] + v[3 * down + c] + v[3 * left + c] + v[3 * right + c];
          v[3 * i + c] = (sum - self * v[3 * i + c] + force[3 * i + c]) / (4 - self);
        }
      }
    }
  }
}
