// What every kernel of a dense layer shares: where a row of A and a tap of it lie, and what is done to a sum before it is stored.
//
//   out[r, n] = act(f[r] · Σ_tap Σ_k A[r, tap, k] · W[tap, k, n] + bias[n]) + shift[step, n] + first[r, n] + second[r, n]
//
// What row r of A is depends on MODE:
//   ROWS  a row of a matrix. r = p·split + s starts at p·outer + s·inner, so that heads inside a row can be rows themselves.
//   TAPS  an output pixel of a KERNEL×KERNEL convolution; the taps are the input pixels under the filter (implicit GEMM).
//   PHASE nearest×2 followed by 3×3: the four output pixels over one input pixel are four 2×2 filters on the small grid
//         (taps that fall on the same input pixel were summed at load). workgroup_id.z is the phase 2·py + px.
// f[r] is 1, or under SPREAD 1/√(variance[r] + eps): of a layer norm whose weight, bias and mean are in W.
//
// Layouts, all in vec4: A (…, K4) padded with zeros to 4 channels; W [phase][tap][4·K4][ldb4]; out (M, N4).
// `*_origin`: how many vec4 of a tensor lie before the bound window, when a tensor above the binding limit runs in bands.
// Reference: Reference.linear, conv3x3, upsample_conv3x3, dwconv (its 1×1), and the products inside the attentions.

const ROWS: u32 = 0u;
const TAPS: u32 = 1u;
const PHASE: u32 = 2u;
const SILU: u32 = 1u;

const MODE: u32 = 0u;
const KERNEL: u32 = 1u; // taps on a side
const ACT: u32 = 0u;
const BIAS: bool = true;
const SHIFT: bool = false;
const JOINED: bool = false; // ROWS: a row of A is one of a and one of joined, side by side
const NORMED: bool = false; // ROWS, and TO_POINTS of winograd.wgsl: A is a group norm of what is loaded
const SPREAD: bool = false; // A's layer norm is in W but for its deviation
const FIRST: bool = false;
const OVER: bool = false; // out lies over first, and is added to where it is
const FIRST_NORMED: bool = false; // first is a group norm of what is loaded
const SECOND: bool = false;
const NORM_SILU: bool = false; // and a SiLU behind that norm
const RAGGED: bool = true; // K4 is no multiple of the depth of a kernel's tile
const TAIL: bool = false; // W is a tensor, not a packed weight: what follows its last row is not zero, and 0 · NaN is NaN

struct Params {
  row0: u32, // first row of this dispatch
  rows: u32, // one past the last
  n4: u32,
  k: u32, // rows of W
  k4: u32,
  ldb4: u32, // vec4 from one row of W to the next
  w_offset: u32,
  split: u32, // ROWS
  outer: u32,
  inner: u32,
  a_offset: u32,
  height: u32, // TAPS, PHASE: the input
  width: u32,
  out_height: u32, // the grid the rows run over (PHASE: the input's)
  out_width: u32,
  stride: u32,
  pad: u32,
  plane: u32, // ROWS, TO_POINTS, FROM_POINTS: rows from one matrix of a batch to the next
  a_origin: u32,
  out_origin: u32,
  a4: u32, // JOINED: vec4 of a row of a
  positions: u32, // NORMED, FIRST_NORMED: of an image
  eps: f32, // SPREAD
}

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> joined: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> norm: array<vec4<f32>>; // [image][scale, offset][channels]
@group(0) @binding(3) var<storage, read> variance: array<vec4<f32>>; // of every row, in x
@group(0) @binding(4) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> shift: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> state: array<u32>;
@group(0) @binding(8) var<storage, read> first: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read> second: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(11) var<uniform> params: Params;

// include common.wgsl

// Where a row begins. ROWS: (index, 0, 0), and its number for an index where JOINED or NORMED. Else: (first image row, top tap's y, left
// tap's x); the last two may be outside.
fn locate(r: u32, phase: u32) -> vec3<i32> {
  if (MODE == ROWS) {
    let p = r + phase * params.plane;
    return vec3<i32>(i32(p / params.split * params.outer + p % params.split * params.inner + params.a_offset - params.a_origin), 0, 0);
  }
  let x = r % params.out_width;
  let y = r / params.out_width % params.out_height;
  let image = r / params.out_width / params.out_height;
  if (MODE == PHASE) {
    return vec3<i32>(i32(image * params.height), i32(y + (phase >> 1u)) - 1, i32(x + (phase & 1u)) - 1);
  }
  return vec3<i32>(i32(image * params.height), i32(y * params.stride) - i32(params.pad), i32(x * params.stride) - i32(params.pad));
}

// The vec4 index of a row's tap in A, or -1 where the filter hangs over the border.
fn tap_index(row: vec3<i32>, tap: u32) -> i32 {
  if (MODE == ROWS) {
    return row.x;
  }
  let y = row.y + i32(tap / KERNEL);
  let x = row.z + i32(tap % KERNEL);
  if (y < 0 || x < 0 || y >= i32(params.height) || x >= i32(params.width)) {
    return -1;
  }
  return ((row.x + y) * i32(params.width) + x) * i32(params.k4) - i32(params.a_origin);
}

// Vec4 k4 of a row's tap.
fn load_a(index: i32, k4: u32) -> vec4<f32> {
  var x: vec4<f32>;
  if (JOINED) { // compiled
    if (k4 < params.a4) {
      x = a[u32(index) * params.a4 + k4];
    } else {
      x = joined[u32(index) * (params.k4 - params.a4) + k4 - params.a4];
    }
  } else {
    if (NORMED) { // compiled
      x = normed(a[u32(index) * params.k4 + k4], u32(index), params.k4, k4);
    } else {
      if (MODE == ROWS) {
        x = a[u32(index) + k4];
      } else {
        x = select(vec4<f32>(0.0), a[u32(max(index, 0)) + k4], index >= 0);
      }
    }
  }
  return x;
}

// What a group norm makes of vec4 c of a row of `width` vec4.
fn normed(x: vec4<f32>, row: u32, width: u32, c: u32) -> vec4<f32> {
  let at = row / params.positions * 2u * width + c;
  let y = x * norm[at] + norm[at + width];
  return select(y, silu(y), NORM_SILU);
}

// Row k of W; `index` is that of the vec4 in w.
fn load_w(index: u32, k: u32) -> vec4<f32> {
  if (TAIL && k >= params.k) {
    return vec4<f32>(0.0);
  }
  return w[index];
}

// Vec4 k of a row of A; zeros past the end of K.
fn ahead_a(index: i32, k: u32) -> vec4<f32> {
  if (RAGGED && k >= params.k4) {
    return vec4<f32>(0.0);
  }
  return load_a(index, k);
}

// Row k of W in column c, `from` being that of the tap's first row; the same.
fn ahead_w(base: u32, k: u32, c: u32) -> vec4<f32> {
  if (RAGGED && k >= 4u * params.k4) {
    return vec4<f32>(0.0);
  }
  return load_w(base + k * params.ldb4 + c, k);
}

fn store(r: u32, c: u32, phase: u32, sum: vec4<f32>) {
  if (r >= params.rows || c >= params.n4) {
    return;
  }
  put(row_of(r, phase), c, sum);
}

// Where row r lands.
fn row_of(r: u32, phase: u32) -> u32 {
  var row = r;
  if (MODE == ROWS) {
    row += phase * params.plane;
  }
  if (MODE == PHASE) {
    let x = 2u * (r % params.out_width) + (phase & 1u);
    let y = 2u * (r / params.out_width) + (phase >> 1u); // image·2·height + 2·y + py: the images stay apart by themselves
    row = y * 2u * params.out_width + x;
  }
  return row;
}

fn put(row: u32, c: u32, sum: vec4<f32>) {
  finish(row, c, sum, beside(row, c));
}

// What a sum is put together with, for kernels that load it before they need it.
struct Beside {
  deviation: f32,
  of_bias: vec4<f32>,
  of_shift: vec4<f32>,
  of_first: vec4<f32>,
  of_second: vec4<f32>,
}

fn beside(row: u32, c: u32) -> Beside {
  var x: Beside;
  if (SPREAD) { // compiled
    x.deviation = sqrt(variance[row].x + params.eps);
  }
  if (BIAS) { // compiled
    x.of_bias = bias[c];
  }
  if (SHIFT) { // compiled
    x.of_shift = shift[state[0] * params.n4 + c];
  }
  let index = row * params.n4 + c - params.out_origin;
  if (FIRST) { // compiled
    if (OVER) { // compiled
      x.of_first = out[index];
    } else {
      x.of_first = first[index];
    }
    if (FIRST_NORMED) { // compiled
      x.of_first = normed(x.of_first, row, params.n4, c);
    }
  }
  if (SECOND) { // compiled
    x.of_second = second[index];
  }
  return x;
}

fn finish(row: u32, c: u32, sum: vec4<f32>, x: Beside) {
  var v = sum;
  if (SPREAD) { // compiled
    v /= x.deviation;
  }
  if (BIAS) { // compiled
    v += x.of_bias;
  }
  if (ACT == SILU) {
    v = silu(v);
  }
  if (SHIFT) { // compiled
    v += x.of_shift;
  }
  if (FIRST) { // compiled
    v += x.of_first;
  }
  if (SECOND) { // compiled
    v += x.of_second;
  }
  out[row * params.n4 + c - params.out_origin] = v;
}
