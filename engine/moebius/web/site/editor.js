// The document: a picture at its own size, what is marked on it, the history of both, and how they are seen. Knows no engine and no button.

import { canvasOf, cropped, imageOf, pictureOf } from "./bitmaps.js";
import { History } from "./history.js";
import { bitmap, bytesOf, rasterised, shifted, surroundings, tight } from "./marks.js";
import { Screen } from "./screen.js";
import { View } from "./view.js";

export const SIZES = { least: 2, most: 400 }; // of the brush, in CSS pixels

export class Editor {
  // `stage` is the element that `canvas` fills; `changed` hears of everything that a button could depend on.
  constructor(stage, canvas, changed = () => {}) {
    Object.assign(this, { stage, canvas, changed });
    Object.assign(this, { picture: null, name: "", type: "", marks: [], active: null, tool: "brush", brush: 40, locked: false });
    Object.assign(this, { original: false, split: null, preview: [], waiting: false });
    [this.history, this.view, this.screen] = [new History(), new View(), new Screen(canvas)];
    new ResizeObserver(() => this.resized()).observe(stage);
    this.resized();
  }

  // the document ----------------------------------------------------------------------------------------------------

  // A picture is {canvas, name, type}. The one before stays in the history, with what was done to it.
  open(picture, marks = []) {
    if (this.picture) this.exchange(picture, marks, false);
    else this.show(picture, marks);
    this.view.resized(this.view.stage, this.picture);
    this.view.fit();
    this.update();
  }

  // New canvas at the sides, grey and marked.
  extend(left, top, right, bottom) {
    const { width, height } = this.picture;
    const canvas = new OffscreenCanvas(width + left + right, height + top + bottom);
    const context = canvas.getContext("2d");
    context.fillStyle = "#808080";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.picture, left, top);
    const box = (x, y, w, h) => ({ kind: "box", x, y, width: w, height: h, erase: false });
    const sides = [box(0, 0, canvas.width, top), box(0, top + height, canvas.width, bottom), box(0, top, left, height), box(left + width, top, right, height)];
    const marks = [...this.marks.map((m) => shifted(m, left, top)), ...sides.filter((s) => s.width && s.height)];
    this.exchange({ canvas, name: this.name, type: this.type }, marks, true);
    this.view.resized(this.view.stage, this.picture);
    this.update();
  }

  exchange(picture, marks, work) {
    const before = { picture: { canvas: this.picture, name: this.name, type: this.type }, marks: this.marks };
    this.history.push({ kind: "picture", before, after: { picture, marks }, work, bytes: 4 * this.picture.width * this.picture.height + bytesOf(this.marks) });
    this.show(picture, marks);
  }

  show({ canvas, name, type }, marks) {
    Object.assign(this, { picture: canvas, name, type, marks, active: null, split: null });
    this.context = canvas.getContext("2d");
  }

  mark(marks) {
    this.history.push({ kind: "marks", before: this.marks, after: marks, bytes: bytesOf(marks.slice(this.marks.length)) + 8 * marks.length });
    this.marks = marks;
    this.update();
  }

  clear() {
    if (this.marks.length) this.mark([]);
  }

  // A mask of the picture's size takes the place of what is marked.
  openMask(mask) {
    this.mark([bitmap(mask)]);
  }

  undo() {
    if (!this.locked && !this.active) this.restore(this.history.undo(), "before");
  }

  redo() {
    if (!this.locked && !this.active) this.restore(this.history.redo(), "after");
  }

  restore(entry, side) {
    if (!entry) return;
    if (entry.kind === "picture") {
      this.show(entry[side].picture, entry[side].marks);
      this.view.resized(this.view.stage, this.picture);
    } else if (entry.kind === "fill") {
      this.context.drawImage(entry[side].canvas, entry.x, entry.y);
      this.marks = entry[side].marks;
    } else {
      this.marks = entry[side];
    }
    this.update();
  }

  // filling ---------------------------------------------------------------------------------------------------------

  // What an engine needs of the picture: the marked rectangle with `context` pixels around it, or once more the one that was filled last.
  // {picture, mask, marks, x, y, width, height, inner, chain, again}, picture and mask as in pixels.js, or null where nothing is marked.
  job(context) {
    const last = this.history.last;
    const again = !this.marks.length && last?.kind === "fill";
    const marks = again ? last.marked : this.marks;
    const { width, height } = this.picture;
    const inner = tight(marks, width, height);
    if (!inner) return null;
    const rect = surroundings(inner, context, width, height);
    const cut = cropped(this.picture, rect);
    const chain = again ? last.chain : [];
    for (const fill of [...chain].reverse()) cut.getContext("2d").drawImage(fill.before.canvas, fill.x - rect.x, fill.y - rect.y);
    return { ...rect, picture: { ...pictureOf(cut), left: rect.x, top: rect.y }, mask: rasterised(marks, rect), marks, inner, chain, again };
  }

  // The result of a job, as one entry of the history.
  filled(job, result) {
    const { x, y, width, height } = differing(job, result);
    const before = cropped(this.picture, { x, y, width, height });
    const after = new OffscreenCanvas(width, height);
    after.getContext("2d").putImageData(imageOf(result), job.x - x, job.y - y);
    const entry = { kind: "fill", x, y, before: { canvas: before, marks: this.marks }, after: { canvas: after, marks: [] }, marked: job.marks };
    entry.bytes = 8 * width * height;
    entry.chain = [...job.chain, entry];
    this.history.push(entry);
    this.context.drawImage(after, x, y);
    Object.assign(this, { marks: [], preview: [] });
    this.update();
  }

  // Pieces {data, width, height} of what a run has so far, each with the place {x, y, side} of the picture that it covers.
  showPreview(pieces) {
    this.preview = pieces.map(({ picture, ...place }) => ({ canvas: picture instanceof ImageBitmap ? picture : canvasOf(picture), ...place }));
    this.redraw();
  }

  // The picture before its fills, for comparing: what lay under each, the last one first.
  get past() {
    const done = this.history.done;
    const first = done.findLastIndex((entry) => entry.kind === "picture") + 1;
    return done.slice(first).filter((entry) => entry.kind === "fill").reverse().map(({ x, y, before }) => ({ canvas: before.canvas, x, y }));
  }

  // a mark under way ------------------------------------------------------------------------------------------------

  begin(kind, erase, [x, y]) {
    if (!this.picture || this.locked) return;
    if (kind === "box") this.active = { kind, x: Math.round(x), y: Math.round(y), width: 0, height: 0, erase, from: [x, y] };
    else this.active = { kind: "stroke", points: [[x, y]], size: this.brush / this.view.scale, erase };
    this.redraw();
  }

  goOn(points) {
    const { active } = this;
    if (!active) return;
    if (active.kind === "stroke") {
      active.points.push(...points);
    } else {
      const [[x0, y0], [x1, y1]] = [active.from, points.at(-1)];
      const [left, top] = [Math.round(Math.min(x0, x1)), Math.round(Math.min(y0, y1))];
      Object.assign(active, { x: left, y: top, width: Math.round(Math.max(x0, x1)) - left, height: Math.round(Math.max(y0, y1)) - top });
    }
    this.redraw();
  }

  end() {
    const { active } = this;
    this.active = null;
    if (active && (active.kind === "stroke" || (active.width && active.height))) this.mark([...this.marks, active]);
    else this.redraw();
  }

  cancel() {
    this.active = null;
    this.screen.drawn = null;
    this.redraw();
  }

  // what is seen ----------------------------------------------------------------------------------------------------

  resized() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (!width || !height) return;
    this.screen.resize(width, height, Math.min(3, globalThis.devicePixelRatio || 1));
    this.view.resized({ width, height });
    this.update();
  }

  setBrush(size) {
    this.brush = Math.round(Math.min(SIZES.most, Math.max(SIZES.least, size)));
    this.changed();
  }

  compare(original) {
    this.original = original && this.past.length > 0;
    this.redraw();
  }

  compareAt(split) {
    this.split = this.past.length ? split : null;
    this.update();
  }

  update() {
    if (!this.past.length) Object.assign(this, { original: false, split: null });
    this.changed();
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    this.screen.draw({ ...this, past: this.original || this.split !== null ? this.past : [] });
  }
}

const BESIDE = 16; // pixels around: a piece that is drawn smaller is mixed with its neighbours at its edge, which are the same then

// The rectangle of the whole picture in which a result differs from what it was made of, or is marked, and BESIDE around it.
function differing({ x, y, width, height, inner, picture }, { data }) {
  let [x0, y0, x1, y1] = [inner.x - x, inner.y - y, inner.x - x + inner.width, inner.y - y + inner.height];
  for (let j = 0, at = 0; j < height; j++) {
    for (let i = 0; i < width; i++, at += 3) {
      if (data[at] !== picture.data[at] || data[at + 1] !== picture.data[at + 1] || data[at + 2] !== picture.data[at + 2]) {
        if (i < x0) x0 = i;
        if (i >= x1) x1 = i + 1;
        if (j < y0) y0 = j;
        if (j >= y1) y1 = j + 1;
      }
    }
  }
  [x0, y0, x1, y1] = [Math.max(0, x0 - BESIDE), Math.max(0, y0 - BESIDE), Math.min(width, x1 + BESIDE), Math.min(height, y1 + BESIDE)];
  return { x: x + x0, y: y + y0, width: x1 - x0, height: y1 - y0 };
}
