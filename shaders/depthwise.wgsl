// y[p, c] = relu(Σ_tap W[tap, c]·x[p + tap, c] + bias[c])         (RELU, the DWConv with its first batch norm folded in)
// y[p, c] = a·SiLU(g), [a, g] = the same for channels c, c + C    (GATED, the feed-forward's gate: both halves in one thread)
//
// NORMED, x is a group norm of what is loaded: x·scale + offset and NORM_SILU; JOINED, its first channels are in x, the others in joined.
// 3×3, zero-padded by one. x (B, H, W, I4), W [9][I4], bias [I4] with I4 = C4 or 2·C4; y (B, H, W, C4).
// A thread makes RUN neighbouring outputs of ROWS lines, of one vec4 of channels, and loads once what of x lies under them. Every output is
// added up in the order of its taps, whatever ROWS is. Written out, the loop over lines takes SwiftShader twice as long to compile.
// A workgroup is DOWN bands of lines times ACROSS runs times LANES vec4 of channels: neighbours load under themselves what is in the cache
// already, where a line of all channels would not be any more.
// Grid: x over C4 / LANES, y over ceil(ceil(W / RUN) / ACROSS), z over ceil(B·ceil(H / ROWS) / DOWN).
// Reference: Reference._depthwise, dwconv, feed_forward.

const RUN: u32 = 4u;
const ROWS: u32 = 1u;
const LINES: u32 = ROWS + 2u; // of x, that lie under those of a thread
const SPAN: u32 = RUN + 2u; // and columns of it
const OUTPUTS: u32 = ROWS * RUN;
const OTHERS: u32 = ROWS - 1u;
const RELU: bool = true;
const GATED: bool = false;
const NORMED: bool = false;
const NORM_SILU: bool = false;
const JOINED: bool = false;
const LANES: u32 = 8u;
const ACROSS: u32 = 4u;
const DOWN: u32 = 2u;
const SIZE: u32 = LANES * ACROSS * DOWN;

struct Params {
  images: u32,
  height: u32,
  width: u32,
  c4: u32,
  a4: u32, // JOINED: vec4 of a row of x
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> joined: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> norm: array<vec4<f32>>; // [image][scale, offset][I4]
@group(0) @binding(3) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

// include common.wgsl

fn load(at: u32, i4: u32, c: u32) -> vec4<f32> {
  if (JOINED) { // compiled
    if (c >= params.a4) {
      return joined[at * (i4 - params.a4) + c - params.a4];
    }
    return x[at * params.a4 + c];
  } else {
    return x[at * i4 + c];
  }
}

// x at (image·height + y, x), zero outside the image. `y` was tested by the caller.
fn column(row: u32, x0: i32, i4: u32, c: u32, scale: vec4<f32>, offset: vec4<f32>) -> vec4<f32> {
  let inside = x0 >= 0 && x0 < i32(params.width);
  var value = load(row * params.width + u32(clamp(x0, 0, i32(params.width) - 1)), i4, c);
  if (NORMED) { // compiled
    value = value * scale + offset;
  }
  if (NORM_SILU) { // compiled
    value = silu(value);
  }
  return select(vec4<f32>(0.0), value, inside);
}

// The ROWS lines of outputs from `y` on.
fn run(image: u32, y: u32, x0: u32, i4: u32, c: u32) -> array<vec4<f32>, OUTPUTS> {
  var acc: array<vec4<f32>, OUTPUTS>;
  var w0: array<vec4<f32>, ROWS>; // the taps that each line of outputs has for this line of x: the first's, a line before, are the second's
  var w1: array<vec4<f32>, ROWS>;
  var w2: array<vec4<f32>, ROWS>;
  var scale = vec4<f32>(1.0);
  var offset = vec4<f32>(0.0);
  if (NORMED) { // compiled
    scale = norm[2u * image * i4 + c];
    offset = norm[(2u * image + 1u) * i4 + c];
  }
  for (var o = 0u; o < OUTPUTS; o++) { // unroll
    acc[o] = bias[c];
  }
  for (var line = 0u; line < LINES; line++) {
    for (var k = 0u; k < OTHERS; k++) { // unroll
      w0[OTHERS - k] = w0[OTHERS - (k + 1u)];
      w1[OTHERS - k] = w1[OTHERS - (k + 1u)];
      w2[OTHERS - k] = w2[OTHERS - (k + 1u)];
    }
    if (line < 3u) {
      w0[0] = w[3u * line * i4 + c];
      w1[0] = w[(3u * line + 1u) * i4 + c];
      w2[0] = w[(3u * line + 2u) * i4 + c];
    }
    let sy = i32(y + line) - 1;
    if (sy >= 0 && sy < i32(params.height)) {
      let row = image * params.height + u32(sy);
      var under: array<vec4<f32>, SPAN>;
      for (var i = 0u; i < SPAN; i++) { // unroll
        under[i] = column(row, i32(x0 + i) - 1, i4, c, scale, offset);
      }
      for (var r = 0u; r < ROWS; r++) { // unroll
        if (r <= line && line < r + 3u) {
          for (var i = 0u; i < RUN; i++) { // unroll
            acc[r * RUN + i] += under[i] * w0[r] + under[i + 1u] * w1[r] + under[i + 2u] * w2[r];
          }
        }
      }
    }
  }
  return acc;
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let bands = (params.height + ROWS - 1u) / ROWS;
  let c = group.x * LANES + local % LANES;
  let x0 = (group.y * ACROSS + local / LANES % ACROSS) * RUN;
  let band = group.z * DOWN + local / (LANES * ACROSS);
  let image = band / bands;
  let y = band % bands * ROWS;
  if (image >= params.images || x0 >= params.width) {
    return;
  }
  let i4 = select(params.c4, 2u * params.c4, GATED);
  var value = run(image, y, x0, i4, c);
  if (GATED) {
    let gate = run(image, y, x0, i4, c + params.c4);
    for (var o = 0u; o < OUTPUTS; o++) { // unroll
      value[o] *= silu(gate[o]);
    }
  } else {
    for (var o = 0u; o < OUTPUTS; o++) { // unroll
      value[o] = select(value[o], at_least(value[o], 0.0), RELU);
    }
  }
  for (var r = 0u; r < ROWS; r++) { // unroll
    let to = ((image * params.height + y + r) * params.width + x0) * params.c4 + c;
    for (var i = 0u; i < RUN; i++) { // unroll
      if (y + r < params.height && x0 + i < params.width) {
        out[to + i * params.c4] = value[r * RUN + i];
      }
    }
  }
}
