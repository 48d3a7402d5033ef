// How a tensor lies in a buffer: channels last, and padded to a multiple of four. Inputs and outputs are float32.

export const product = (shape) => shape.reduce((a, b) => a * b, 1);

export function layoutOf(shape) {
  const channels = shape[3];
  return [channels, Math.ceil(channels / 4) * 4, product(shape.slice(0, 3))];
}

export function tensorBytes({ shape }) {
  const [, pitch, rows] = layoutOf(shape);
  return 4 * pitch * rows;
}

export function padded(array, { shape }) {
  const [channels, pitch, rows] = layoutOf(shape);
  if (array.length !== rows * channels) throw new Error(`${array.length} values do not fill ${shape}`);
  const out = new Float32Array(rows * pitch);
  for (let row = 0; row < rows; row++) out.set(array.subarray(row * channels, (row + 1) * channels), row * pitch);
  return out;
}

export function unpadded(flat, { shape }) {
  const [channels, pitch, rows] = layoutOf(shape);
  if (channels === pitch) return flat;
  const out = new Float32Array(rows * channels);
  for (let row = 0; row < rows; row++) out.set(flat.subarray(row * pitch, row * pitch + channels), row * channels);
  return out;
}

// Of bytes, the numbers of a type: "f32", "f16" or "quad".
export function numbers(bytes, type) {
  if (type === "quad") return ofQuads(new Uint32Array(bytes));
  return type === "f16" ? Float32Array.from(new Uint16Array(bytes), halfOf) : new Float32Array(bytes);
}

// Four numbers under one exponent, as shaders/quad.wgsl says.
function ofQuads(words) {
  const out = new Float32Array(2 * words.length);
  for (let i = 0; i < words.length; i += 2) {
    const unit = 2 ** (((words[i] >>> 28) | ((words[i + 1] >>> 28) << 4)) - 139);
    for (let j = 0; j < 4; j++) {
      const bits = (words[i + (j >> 1)] >>> (14 * (j % 2))) & 0x3fff;
      out[2 * i + j] = bits === 0x3fff ? NaN : (bits - 8191) * unit;
    }
  }
  return out;
}

function halfOf(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
}
