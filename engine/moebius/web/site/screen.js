// Draws the editor's state onto the canvas of the stage, which has as many pixels as the screen has there, whatever the picture has.

import { paint } from "./marks.js";

const TINT = "rgb(236 72 153 / 0.45)"; // seen on skin, leaves, sky and walls alike
const RINGS = [["rgb(0 0 0 / 0.75)", 2], ["rgb(255 255 255 / 0.95)", 1]]; // around what is marked: one of them shows on any picture
const PIXELATED = 4; // from that scale on pixels are squares
const EVERYWHERE = [[1, 0], [-1, 0], [0, 1], [0, -1], [0.7, 0.7], [-0.7, 0.7], [0.7, -0.7], [-0.7, -0.7]];

export class Screen {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: true });
    [this.shape, this.overlay, this.ring] = [0, 0, 0].map(() => new OffscreenCanvas(1, 1).getContext("2d"));
    this.drawn = null; // the marks and the view that `shape` has
  }

  // CSS pixels, and device pixels for each.
  resize(width, height, ratio) {
    this.ratio = ratio;
    const size = { width: Math.max(1, Math.round(width * ratio)), height: Math.max(1, Math.round(height * ratio)) };
    for (const canvas of [this.canvas, this.shape.canvas, this.overlay.canvas, this.ring.canvas]) Object.assign(canvas, size);
    this.drawn = null;
  }

  // `split`, from 0 to 1 of the stage's width, is where the original ends; `original` all of it; `preview` a canvas and where it lies.
  draw({ view, picture, marks, active, past, original, split, preview, hidden }) {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!picture) return;
    this.place(context, view);
    context.imageSmoothingEnabled = view.scale * this.ratio < PIXELATED;
    context.imageSmoothingQuality = "medium";
    this.piece(picture, view);
    if (original || split !== null) {
      context.save();
      if (!original) {
        context.setTransform(1, 0, 0, 1, 0, 0);
        context.beginPath();
        context.rect(0, 0, split * canvas.width, canvas.height);
        context.clip();
        this.place(context, view);
      }
      for (const { canvas: crop, x, y } of past) context.drawImage(crop, x, y);
      context.restore();
    } else if (!hidden) {
      this.marked(view, marks, active);
      if (marks.length || active) this.tinted(view, preview);
    }
  }

  place(context, view) {
    const r = this.ratio;
    context.setTransform(view.scale * r, 0, 0, view.scale * r, view.x * r, view.y * r);
  }

  // Of a large picture only what is seen.
  piece(picture, view) {
    const [left, top] = view.toPicture(0, 0).map((v) => Math.max(0, Math.floor(v) - 1));
    const [right, bottom] = view.toPicture(view.stage.width, view.stage.height).map((v) => Math.ceil(v) + 1);
    const [width, height] = [Math.min(picture.width, right) - left, Math.min(picture.height, bottom) - top];
    if (width > 0 && height > 0) this.context.drawImage(picture, left, top, width, height, left, top, width, height);
  }

  // The silhouette of the marks on the screen. A stroke that is under way only adds its new points.
  marked(view, marks, active) {
    const { shape } = this;
    const key = [view.scale, view.x, view.y, view.picture.width, view.picture.height];
    const same = this.drawn && this.drawn.marks === marks && this.drawn.key.every((v, i) => v === key[i]);
    const grows = same && active?.kind === "stroke" && this.drawn.active === active;
    if (!grows && !(same && !active && !this.drawn.active)) {
      this.emptied(shape);
      this.place(shape, view);
      this.clip(shape, view.picture);
      for (const mark of marks) paint(shape, mark);
      this.drawn = { marks, key, points: 0 };
    }
    if (active) {
      this.clip(shape, view.picture);
      paint(shape, active, this.drawn.points);
    }
    shape.restore();
    Object.assign(this.drawn, { active, points: active?.points?.length ?? 0 });
  }

  emptied(on) {
    on.setTransform(1, 0, 0, 1, 0, 0);
    on.globalCompositeOperation = "source-over";
    on.clearRect(0, 0, on.canvas.width, on.canvas.height);
  }

  clip(shape, { width, height }) {
    shape.restore();
    shape.save();
    shape.beginPath();
    shape.rect(0, 0, width, height);
    shape.clip();
    shape.imageSmoothingEnabled = false;
  }

  // The colour, or what is known of the result, where the silhouette is; and its outline.
  tinted(view, preview) {
    const { context, overlay, shape, ring } = this;
    const coloured = (on, colour) => {
      on.globalCompositeOperation = "source-in";
      on.fillStyle = colour;
      on.fillRect(0, 0, on.canvas.width, on.canvas.height);
    };
    this.emptied(overlay);
    overlay.drawImage(shape.canvas, 0, 0);
    coloured(overlay, TINT);
    if (preview.length) {
      this.emptied(ring);
      this.place(ring, view);
      for (const { canvas, x, y, width, height } of preview) ring.drawImage(canvas, x, y, width, height);
      ring.setTransform(1, 0, 0, 1, 0, 0);
      ring.globalCompositeOperation = "destination-in";
      ring.drawImage(shape.canvas, 0, 0);
      overlay.globalCompositeOperation = "source-over";
      overlay.drawImage(ring.canvas, 0, 0);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    for (const [colour, width] of RINGS) {
      this.emptied(ring);
      for (const [dx, dy] of EVERYWHERE) ring.drawImage(shape.canvas, dx * width * this.ratio, dy * width * this.ratio);
      ring.globalCompositeOperation = "destination-out";
      ring.drawImage(shape.canvas, 0, 0);
      coloured(ring, colour);
      context.drawImage(ring.canvas, 0, 0);
    }
    context.drawImage(overlay.canvas, 0, 0);
  }
}
