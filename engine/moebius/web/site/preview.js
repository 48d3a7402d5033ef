// What a window would be if its run stopped now, a pixel a latent: engine/moebius/inpaint/preview.py's affine map from latents to colours,
// fitted to the window's own latents and pixels. Known once the picture's moments are.

const MOMENTS = "moments of the image";

export class Preview {
  // x: the window from -1 to 1.
  constructor(x, config) {
    Object.assign(this, { x, config, map: null });
  }

  // Takes what `sample` keeps.
  keep(name, data) {
    if (name === MOMENTS) this.map = fitted(latentsOf(data, this.config), shrunk(this.x, this.config), this.config.channels);
  }

  // From latents before and after a step whose `row` is [√ā_t, √(1-ā_t), √ā_p, √(1-ā_p)]: {data, width, height}, or null.
  picture(row, from, to) {
    if (!this.map) return null;
    const { channels, latent } = this.config;
    const estimate = estimated(row, from, to);
    const data = new Uint8ClampedArray(3 * latent * latent);
    for (let i = 0; i < latent * latent; i++) {
      for (let c = 0; c < 3; c++) {
        let sum = this.map[channels][c];
        for (let k = 0; k < channels; k++) sum += this.map[k][c] * estimate[i * channels + k];
        data[3 * i + c] = (sum + 1) * 127.5;
      }
    }
    return { data, width: latent, height: latent };
  }
}

// y_t = √ā_t·x + √(1-ā_t)·ε and y_p = √ā_p·x + √(1-ā_p)·ε, solved for x.
export function estimated([at, nt, ap, np], from, to) {
  const determinant = ap * nt - at * np;
  return from.map((v, i) => (nt * to[i] - np * v) / determinant);
}

function latentsOf(moments, { channels, scaling, latent }) {
  const out = new Float64Array(latent * latent * channels);
  for (let i = 0; i < out.length; i++) out[i] = moments[2 * channels * Math.floor(i / channels) + (i % channels)] * scaling;
  return out;
}

// The mean of every latent's pixels.
function shrunk(x, { latent, factor, size }) {
  const out = new Float64Array(3 * latent * latent);
  for (let y = 0; y < size; y++) {
    for (let i = 0; i < size; i++) {
      const to = 3 * (Math.floor(y / factor) * latent + Math.floor(i / factor));
      for (let c = 0; c < 3; c++) out[to + c] += x[3 * (y * size + i) + c] / factor ** 2;
    }
  }
  return out;
}

// Least squares by its normal equations: (channels + 1) rows of three.
export function fitted(z, colours, channels) {
  const n = channels + 1;
  const rows = Array.from({ length: n }, () => new Float64Array(n + 3));
  const values = new Float64Array(n + 3);
  for (let i = 0; i < colours.length / 3; i++) {
    for (let k = 0; k < channels; k++) values[k] = z[i * channels + k];
    values[channels] = 1;
    for (let c = 0; c < 3; c++) values[n + c] = colours[3 * i + c];
    for (let a = 0; a < n; a++) for (let b = 0; b < n + 3; b++) rows[a][b] += values[a] * values[b];
  }
  for (let a = 0; a < n; a++) rows[a][a] *= 1 + 1e-9; // a picture of one colour has latents of one, too
  for (let a = 0; a < n; a++) {
    const pivot = rows[a][a] || 1;
    for (let b = a; b < n + 3; b++) rows[a][b] /= pivot;
    for (let other = 0; other < n; other++) {
      const part = other === a ? 0 : rows[other][a];
      for (let b = a; part && b < n + 3; b++) rows[other][b] -= part * rows[a][b];
    }
  }
  return rows.map((row) => row.slice(n));
}
