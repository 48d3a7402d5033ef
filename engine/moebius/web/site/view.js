// Where the picture lies on the screen: a point p of it at scale·p + (x, y), in CSS pixels of the stage. Knows nothing of drawing.

const LARGEST = 32; // CSS pixels a pixel
const BORDER = 16; // around a picture that is fitted
const KEPT = 64; // CSS pixels of the picture that stay on the stage

export class View {
  constructor() {
    Object.assign(this, { scale: 1, x: 0, y: 0, stage: { width: 1, height: 1 }, picture: { width: 1, height: 1 }, fitted: true });
  }

  // The scale at which the whole picture is seen; small ones are enlarged at most threefold.
  get fitting() {
    const { stage, picture } = this;
    const room = (n) => Math.max(1, n - 2 * Math.min(BORDER, n / 20));
    return Math.min(room(stage.width) / picture.width, room(stage.height) / picture.height, 3);
  }

  fit() {
    this.to(this.fitting, 0.5, 0.5);
    this.fitted = true;
  }

  // The given scale, with the place (u, v) of the picture, from 0 to 1, in the middle.
  to(scale, u, v) {
    this.scale = this.bounded(scale);
    this.x = this.stage.width / 2 - u * this.picture.width * this.scale;
    this.y = this.stage.height / 2 - v * this.picture.height * this.scale;
    this.fitted = false;
  }

  // The stage or the picture has another size.
  resized(stage, picture = this.picture) {
    const [u, v] = this.toPicture(this.stage.width / 2, this.stage.height / 2);
    const centre = [u / this.picture.width, v / this.picture.height];
    const other = picture.width !== this.picture.width || picture.height !== this.picture.height;
    Object.assign(this, { stage: { ...stage }, picture: { width: picture.width, height: picture.height } });
    if (this.fitted || other) this.fit();
    else this.to(this.scale, ...centre);
    this.keep();
  }

  bounded(scale) {
    return Math.min(LARGEST, Math.max(Math.min(this.fitting, 1) / 2, scale));
  }

  // What lies under (px, py) stays there.
  zoom(factor, px = this.stage.width / 2, py = this.stage.height / 2) {
    const scale = this.bounded(this.scale * factor);
    const by = scale / this.scale;
    Object.assign(this, { scale, x: px - by * (px - this.x), y: py - by * (py - this.y), fitted: false });
    this.keep();
  }

  pan(dx, dy) {
    Object.assign(this, { x: this.x + dx, y: this.y + dy, fitted: false });
    this.keep();
  }

  // Some of the picture is always on the stage.
  keep() {
    const kept = (at, length, room) => Math.min(room - Math.min(KEPT, room), Math.max(Math.min(KEPT, room) - length, at));
    this.x = kept(this.x, this.picture.width * this.scale, this.stage.width);
    this.y = kept(this.y, this.picture.height * this.scale, this.stage.height);
  }

  toPicture(px, py) {
    return [(px - this.x) / this.scale, (py - this.y) / this.scale];
  }

  toStage(x, y) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }
}
