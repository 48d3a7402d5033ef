// The picture on its canvas and the mask that is painted over it.

const LARGEST_SIDE = 4096; // browsers refuse canvases much larger than that
const TINT = [13, 148, 136, 150];

export class Editor {
  // `changed` is called after every stroke.
  constructor(canvas, brush, changed = () => {}) {
    Object.assign(this, { canvas, brush, changed, erasing: false, size: 40, strokes: [], result: null, showOriginal: false });
    this.context = canvas.getContext("2d");
    this.base = new OffscreenCanvas(1, 1);
    this.mask = new OffscreenCanvas(1, 1);
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.end());
    canvas.addEventListener("pointerleave", () => (brush.hidden = true));
  }

  // A file or blob; returns what should be said about it, or nothing.
  async open(blob) {
    const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
    const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // what is transparent has no colour of its own
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    this.show({ data: withoutAlpha(data), width: canvas.width, height: canvas.height });
    return scale < 1 ? `The picture has ${bitmap.width}×${bitmap.height} pixels; the page works on ${canvas.width}×${canvas.height} of it.` : "";
  }

  // A picture, {data, width, height} with three bytes a pixel, and the mask it begins with.
  show(picture, mask = null) {
    this.picture = picture;
    this.strokes = [];
    this.result = null;
    const { width, height } = picture;
    for (const canvas of [this.canvas, this.base, this.mask]) Object.assign(canvas, { width, height });
    this.painted = mask && imageOf(mask, (v) => (v ? TINT : [0, 0, 0, 0]));
    this.repaint();
  }

  showResult(picture) {
    this.result = picture;
    this.draw();
  }

  // Goes on from the result, with nothing marked.
  keepResult() {
    this.show(this.result);
  }

  clear() {
    this.painted = null;
    this.strokes = [];
    this.result = null;
    this.repaint();
  }

  undo() {
    this.strokes.pop();
    this.result = null;
    this.repaint();
  }

  // The mask as bytes, 0 or 1.
  marked() {
    const { width, height } = this.mask;
    const rgba = this.mask.getContext("2d").getImageData(0, 0, width, height).data;
    const data = new Uint8Array(width * height);
    for (let i = 0; i < data.length; i++) data[i] = rgba[4 * i + 3] > TINT[3] / 2 ? 1 : 0;
    return { data, width, height };
  }

  // drawing ---------------------------------------------------------------------------------------------------------

  repaint() {
    const context = this.mask.getContext("2d");
    context.clearRect(0, 0, this.mask.width, this.mask.height);
    if (this.painted) context.putImageData(this.painted, 0, 0);
    for (const stroke of this.strokes) this.stroke(stroke, 0);
    this.draw();
    this.changed();
  }

  // From the point `first` on. Source-over of a half transparent colour would darken where strokes cross, so the colour is
  // first taken away.
  stroke({ points, size, erasing }, first) {
    const context = this.mask.getContext("2d");
    const path = new Path2D();
    const from = points[Math.max(0, first - 1)];
    path.moveTo(...from);
    for (const point of points.slice(Math.max(0, first))) path.lineTo(...point);
    Object.assign(context, { lineWidth: size, lineCap: "round", lineJoin: "round", globalCompositeOperation: "destination-out", strokeStyle: "#000" });
    context.stroke(path);
    if (!erasing) {
      context.globalCompositeOperation = "destination-over";
      context.strokeStyle = `rgb(${TINT.slice(0, 3)} / ${TINT[3] / 255})`;
      context.stroke(path);
    }
    context.globalCompositeOperation = "source-over";
  }

  draw() {
    const { context, canvas } = this;
    const shown = this.result && !this.showOriginal ? this.result : this.picture;
    if (this.drawn !== shown) {
      this.base.getContext("2d").putImageData(imageOf(shown, null), 0, 0);
      this.drawn = shown;
    }
    context.drawImage(this.base, 0, 0);
    if (!this.result) context.drawImage(this.mask, 0, 0);
    canvas.dispatchEvent(new Event("drawn"));
  }

  // the pointer -----------------------------------------------------------------------------------------------------

  // The canvas is fitted into its box: how many pixels of the picture one of the screen is, and where it begins.
  geometry() {
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.max(this.canvas.width / box.width, this.canvas.height / box.height);
    return { box, scale, left: (box.width - this.canvas.width / scale) / 2, top: (box.height - this.canvas.height / scale) / 2 };
  }

  at(event) {
    const { box, scale, left, top } = this.geometry();
    return [(event.clientX - box.left - left) * scale, (event.clientY - box.top - top) * scale];
  }

  begin(event) {
    if (!this.picture || this.locked || event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.result = null; // painting goes on on the original
    const { scale } = this.geometry();
    const point = this.at(event);
    this.active = { points: [point, point], size: this.size * scale, erasing: this.erasing };
    this.strokes.push(this.active);
    this.stroke(this.active, 0);
    this.draw();
  }

  move(event) {
    const { box } = this.geometry();
    const frame = this.canvas.parentElement.getBoundingClientRect();
    this.brush.hidden = !this.picture || event.pointerType === "touch" || this.locked;
    Object.assign(this.brush.style, {
      left: `${event.clientX - frame.left}px`,
      top: `${event.clientY - frame.top}px`,
      width: `${this.size}px`,
      height: `${this.size}px`,
    });
    if (!this.active || !box.width) return;
    const first = this.active.points.length;
    for (const each of event.getCoalescedEvents?.() ?? [event]) this.active.points.push(this.at(each));
    if (this.active.points.length === first) this.active.points.push(this.at(event));
    this.stroke(this.active, first);
    this.draw();
  }

  end() {
    if (!this.active) return;
    this.active = null;
    this.changed();
  }
}

function withoutAlpha(rgba) {
  const data = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0; i < rgba.length / 4; i++) for (let c = 0; c < 3; c++) data[3 * i + c] = rgba[4 * i + c];
  return data;
}

// Three bytes a pixel, or with `colour` one byte a pixel, as canvas pixels.
export function imageOf({ data, width, height }, colour) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    if (colour) image.data.set(colour(data[i]), 4 * i);
    else for (let c = 0; c < 4; c++) image.data[4 * i + c] = c === 3 ? 255 : data[3 * i + c];
  }
  return image;
}
