// `dilated` of engine/moebius/pictures/mask.py: masks, one byte a pixel, grown by a disc.

// All pixels within `radius` of a marked one: dx² + dy² ≤ radius². A large mask by cells as far as they tell, and to the pixel along the rim.
export function grown(marked, width, height, radius, constants) {
  const { CELL, PIECE, SLACK } = constants;
  const reach = Math.min(Math.floor(radius), width + height);
  const all = Uint8Array.from(marked);
  if (!reach || !all.includes(1)) return all;
  if (all.length <= PIECE ** 2) return within(all, width, height, radius, reach);
  const { some, whole, across, high } = cellsOf(all, width, height, constants);
  const maybe = grown(some, across, high, (radius + SLACK) / CELL, constants);
  const sure = radius < SLACK ? whole : grown(some, across, high, (radius - SLACK) / CELL, constants).map((s, i) => s | whole[i]);
  const out = new Uint8Array(all.length);
  for (let y = 0; y < height; y++) {
    const row = Math.floor(y / CELL) * across;
    for (let x = 0; x < width; x += CELL) if (sure[row + x / CELL]) out.fill(1, y * width + x, y * width + Math.min(width, x + CELL));
  }
  const step = Math.floor(Math.max(PIECE, 4 * reach) / CELL);
  for (let row = 0; row < high; row += step) {
    for (let column = 0; column < across; column += step) {
      let [x0, y0, x1, y1] = [width, height, 0, 0]; // of the cells that do not tell
      for (let y = row; y < Math.min(row + step, high); y++) {
        for (let x = column; x < Math.min(column + step, across); x++) {
          if (!maybe[y * across + x] || sure[y * across + x]) continue;
          [x0, y0] = [Math.min(x0, CELL * x), Math.min(y0, CELL * y)];
          [x1, y1] = [Math.min(width, Math.max(x1, CELL * (x + 1))), Math.min(height, Math.max(y1, CELL * (y + 1)))];
        }
      }
      if (x0 >= x1) continue;
      const [left, top] = [Math.max(0, x0 - reach), Math.max(0, y0 - reach)];
      const [wide, tall] = [Math.min(width, x1 + reach) - left, Math.min(height, y1 + reach) - top];
      const part = new Uint8Array(wide * tall);
      for (let y = 0; y < tall; y++) part.set(all.subarray((top + y) * width + left, (top + y) * width + left + wide), y * wide);
      const near = within(part, wide, tall, radius, reach);
      for (let y = y0; y < y1; y++) out.set(near.subarray((y - top) * wide + x0 - left, (y - top) * wide + x1 - left), y * width + x0);
    }
  }
  return out;
}

// Which cells have a marked pixel, `some`, and which nothing else, `whole`; beyond the far borders nothing is marked.
export function cellsOf(marked, width, height, { CELL }) {
  const [across, high] = [Math.ceil(width / CELL), Math.ceil(height / CELL)];
  const counts = new Uint8Array(across * high);
  for (let y = 0, i = 0; y < height; y++) {
    const row = Math.floor(y / CELL) * across;
    for (let x = 0; x < width; x++, i++) counts[row + Math.floor(x / CELL)] += marked[i];
  }
  return { some: counts.map((n) => (n ? 1 : 0)), whole: counts.map((n) => (n === CELL * CELL ? 1 : 0)), across, high };
}

// Down the columns the distance g to the nearest marked pixel; along the rows a pixel is reached from x' when |x - x'| ≤ √(radius² - g(x')²).
function within(out, width, height, radius, reach) {
  const far = reach + 1;
  const gap = new Int32Array(width * height);
  for (let i = 0; i < gap.length; i++) gap[i] = out[i] ? 0 : i < width ? far : Math.min(far, gap[i - width] + 1);
  for (let i = gap.length - width - 1; i >= 0; i--) gap[i] = Math.min(gap[i], gap[i + width] + 1);
  const half = Int32Array.from({ length: far }, (_, d) => wholeRoot(radius * radius - d * d));
  for (let start = 0; start < gap.length; start += width) {
    for (let x = 0, end = -1; x < width; x++) {
      const g = gap[start + x];
      if (g < far) end = Math.max(end, x + half[g]);
      if (end >= x) out[start + x] = 1;
    }
    for (let x = width - 1, end = width; x >= 0; x--) {
      const g = gap[start + x];
      if (g < far) end = Math.min(end, x - half[g]);
      if (end <= x) out[start + x] = 1;
    }
  }
  return out;
}

// The largest n with n² ≤ square.
function wholeRoot(square) {
  let n = Math.floor(Math.sqrt(square));
  while (n * n > square) n--;
  while ((n + 1) ** 2 <= square) n++;
  return n;
}
