// What is marked to be filled in: a list of strokes, boxes and masks from files, in pixels of the picture, later ones over earlier ones.
// A list and its marks are never changed, so that the history can keep them.
//
//   {kind: "stroke", points: [[x, y], …], size, erase}    {kind: "box", x, y, width, height, erase}
//   {kind: "bitmap", canvas, x, y, erase: false}          where the canvas is opaque

// Opaque black onto a context whose transform is the picture's; `first`, of a stroke's points, is where to go on.
export function paint(context, mark, first = 0) {
  context.globalCompositeOperation = mark.erase ? "destination-out" : "source-over";
  if (mark.kind === "bitmap") {
    context.drawImage(mark.canvas, mark.x, mark.y);
  } else if (mark.kind === "box") {
    context.fillStyle = "#000";
    context.fillRect(mark.x, mark.y, mark.width, mark.height);
  } else {
    const path = new Path2D();
    const [from, ...to] = mark.points.slice(Math.max(0, first - 1));
    path.moveTo(...from);
    for (const point of to.length ? to : [[from[0] + 0.01, from[1]]]) path.lineTo(...point); // a line of no length is none
    Object.assign(context, { lineWidth: mark.size, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
    context.stroke(path);
  }
  context.globalCompositeOperation = "source-over";
}

// Where anything can be marked, in whole pixels within the picture: {x, y, width, height}, or null.
export function boundsOf(marks, width, height) {
  let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
  const take = (left, top, right, bottom) => ([x0, y0, x1, y1] = [Math.min(x0, left), Math.min(y0, top), Math.max(x1, right), Math.max(y1, bottom)]);
  for (const mark of marks) {
    if (mark.erase) continue;
    if (mark.kind === "stroke") for (const [x, y] of mark.points) take(x - mark.size / 2, y - mark.size / 2, x + mark.size / 2, y + mark.size / 2);
    else if (mark.kind === "box") take(mark.x, mark.y, mark.x + mark.width, mark.y + mark.height);
    else take(mark.x, mark.y, mark.x + mark.canvas.width, mark.y + mark.canvas.height);
  }
  const [left, top] = [Math.max(0, Math.floor(x0)), Math.max(0, Math.floor(y0))];
  const [right, bottom] = [Math.min(width, Math.ceil(x1)), Math.min(height, Math.ceil(y1))];
  return right > left && bottom > top ? { x: left, y: top, width: right - left, height: bottom - top } : null;
}

// The part of the mask in a rectangle: {data, width, height} with a byte a pixel, 1 where at least half of it is covered.
export function rasterised(marks, { x, y, width, height }) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.translate(-x, -y);
  for (const mark of marks) paint(context, mark);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = rgba[4 * i + 3] >= 128 ? 1 : 0;
  return { data, width, height };
}

// The smallest rectangle around all that is marked, and the mask in it; null where nothing is.
export function tight(marks, width, height) {
  const rect = boundsOf(marks, width, height);
  if (!rect) return null;
  const mask = rasterised(marks, rect);
  let [x0, y0, x1, y1] = [rect.width, rect.height, 0, 0];
  for (let y = 0; y < rect.height; y++) {
    const row = mask.data.subarray(y * rect.width, (y + 1) * rect.width);
    const first = row.indexOf(1);
    if (first < 0) continue;
    [x0, y0, x1, y1] = [Math.min(x0, first), Math.min(y0, y), Math.max(x1, row.lastIndexOf(1) + 1), y + 1];
  }
  return x1 > x0 ? { x: rect.x + x0, y: rect.y + y0, width: x1 - x0, height: y1 - y0 } : null;
}

// A rectangle with so much around it that an engine's windows, whose side is `context` where they are not scaled, lie as in the whole picture.
export function surroundings(inner, context, width, height) {
  const around = Math.max(context, inner.width, inner.height);
  const [x, y] = [Math.max(0, inner.x - around), Math.max(0, inner.y - around)];
  const [right, bottom] = [Math.min(width, inner.x + inner.width + around), Math.min(height, inner.y + inner.height + around)];
  return { x, y, width: right - x, height: bottom - y };
}

// {data, width, height} with a byte a pixel as a mark.
export function bitmap({ data, width, height }) {
  const image = new ImageData(width, height);
  for (let i = 0; i < data.length; i++) image.data[4 * i + 3] = data[i] ? 255 : 0;
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { kind: "bitmap", canvas, x: 0, y: 0, erase: false };
}

export function shifted(mark, dx, dy) {
  if (mark.kind === "stroke") return { ...mark, points: mark.points.map(([x, y]) => [x + dx, y + dy]) };
  return { ...mark, x: mark.x + dx, y: mark.y + dy };
}

// What a list of marks weighs in the history.
export function bytesOf(marks) {
  return marks.reduce((sum, m) => sum + 64 + (m.kind === "bitmap" ? 4 * m.canvas.width * m.canvas.height : 16 * (m.points?.length ?? 0)), 0);
}
