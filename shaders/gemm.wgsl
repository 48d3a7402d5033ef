// out[r, n] = act(f[r] · Σ_tap Σ_k A[r, tap, k] · W[tap, k, n] + bias[n]) + shift[step, n] + first[r, n] + second[r, n]
//
// Every dense layer. What row r of A is depends on MODE:
//   ROWS  a row of a matrix. r = p·split + s starts at p·outer + s·inner, so that heads inside a row can be rows themselves.
//   TAPS  an output pixel of a KERNEL×KERNEL convolution; the taps are the input pixels under the filter (implicit GEMM).
//   PHASE nearest×2 followed by 3×3: the four output pixels over one input pixel are four 2×2 filters on the small grid
//         (taps that fall on the same input pixel were summed at load). workgroup_id.z is the phase 2·py + px.
// f[r] is 1, or under SPREAD 1/√(variance[r] + eps): of a layer norm whose weight, bias and mean are in W.
//
// Five kernels. For software drivers, where workgroup memory and barriers cost most: `direct` reads both operands from global memory, and
// in `lines` neighbours along a line share the input under them. For GPUs, tiles of A and W lie in workgroup memory: `tiled`; `staged`,
// with the next tile under way in registers while it multiplies the present one; and `thin` for few columns, whose lanes divide K.
//
// Winograd's F(2×2, 3×3), for a 3×3 of stride 1: 16 products for a tile of 2×2 outputs instead of 36. `to_points` makes (Bᵀ·d·B)ᵢⱼ of the
// 4×4 inputs d under a tile, matrix 4i+j; the products of all 16 matrices are one dispatch (ROWS, z over matrices) with G·g·Gᵀ as W; and
// `from_points` makes the sum above of Aᵀ·M·A. The rows of both are tiles, their grids x over K4 or N4, y over tiles.
//
// Layouts, all in vec4: A (…, K4) padded with zeros to 4 channels; W [phase][tap][4·K4][ldb4]; out (M, N4).
// Grid: x over columns of 4·WGX·TN4 (`thin`: of 4·TN4), y over rows of WGY·TM, z over phases. A thread owns rows r0 + i·WGY, or r0 + i
// where `staged` and `thin` are, and columns c0 + j·WGX.
// `*_origin`: how many vec4 of a tensor lie before the bound window, when a tensor above the binding limit runs in bands.
// Reference: Reference.linear, conv3x3, upsample_conv3x3, dwconv (its 1×1), and the products inside the attentions.

const ROWS: u32 = 0u;
const TAPS: u32 = 1u;
const PHASE: u32 = 2u;
const TO_POINTS: u32 = 3u;
const FROM_POINTS: u32 = 4u;
const SILU: u32 = 1u;

const MODE: u32 = 0u;
const KERNEL: u32 = 1u; // taps on a side
const ACT: u32 = 0u;
const BIAS: bool = true;
const SHIFT: bool = false;
const JOINED: bool = false; // ROWS: a row of A is one of a and one of joined, side by side
const NORMED: bool = false; // ROWS: A is a group norm of what is loaded
const SPREAD: bool = false; // A's layer norm is in W but for its deviation
const FIRST: bool = false;
const FIRST_NORMED: bool = false; // first is a group norm of what is loaded
const SECOND: bool = false;
const NORM_SILU: bool = false; // and a SiLU behind that norm
const TAIL: bool = false; // W is a tensor, not a packed weight: what follows its last row is not zero, and 0 · NaN is NaN
const TM: u32 = 4u; // rows per thread
const TN4: u32 = 2u; // columns per thread, in vec4
const WGX: u32 = 8u;
const WGY: u32 = 8u;
const ACC: u32 = 8u; // TM·TN4
const BK4: u32 = 4u; // tiled, staged: depth of a tile, in vec4
const LOAD_A: u32 = 2u; // tiled, staged: vec4 of A a thread stages, WGY·TM·BK4 / threads
const LOAD_W: u32 = 4u; // tiled, staged: vec4 of W a thread stages, 4·BK4·WGX·TN4 / threads
const RAGGED: bool = true; // staged: K4 is no multiple of BK4

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

fn store(r: u32, c: u32, phase: u32, sum: vec4<f32>) {
  if (r >= params.rows || c >= params.n4) {
    return;
  }
  var row = r;
  if (MODE == ROWS) {
    row += phase * params.plane;
  }
  if (MODE == PHASE) {
    let x = 2u * (r % params.out_width) + (phase & 1u);
    let y = 2u * (r / params.out_width) + (phase >> 1u); // image·2·height + 2·y + py: the images stay apart by themselves
    row = y * 2u * params.out_width + x;
  }
  put(row, c, sum);
}

fn put(row: u32, c: u32, sum: vec4<f32>) {
  var v = sum;
  if (SPREAD) { // compiled
    v /= sqrt(variance[row].x + params.eps);
  }
  if (BIAS) { // compiled
    v += bias[c];
  }
  if (ACT == SILU) {
    v = silu(v);
  }
  if (SHIFT) { // compiled
    v += shift[state[0] * params.n4 + c];
  }
  let index = row * params.n4 + c - params.out_origin;
  if (FIRST) { // compiled
    var x = first[index];
    if (FIRST_NORMED) { // compiled
      x = normed(x, row, params.n4, c);
    }
    v += x;
  }
  if (SECOND) { // compiled
    v += second[index];
  }
  out[index] = v;
}

@compute @workgroup_size(WGX, WGY)
fn direct(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c0 = group.x * WGX * TN4 + local.x;
  let r0 = params.row0 + group.y * WGY * TM + local.y;
  let last = params.n4 - 1u;
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, TM>;
  for (var i = 0u; i < TM; i++) { // unroll
    row[i] = locate(min(r0 + i * WGY, params.rows - 1u), group.z);
  }
  var w0 = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
    var at: array<i32, TM>;
    for (var i = 0u; i < TM; i++) { // unroll
      at[i] = tap_index(row[i], tap);
    }
    for (var k = 0u; k < params.k4; k++) {
      var x: array<vec4<f32>, TM>;
      for (var i = 0u; i < TM; i++) { // unroll
        x[i] = load_a(at[i], k);
      }
      for (var j = 0u; j < TN4; j++) { // unroll
        let c = w0 + min(c0 + j * WGX, last);
        let b0 = load_w(c, 4u * k);
        let b1 = load_w(c + params.ldb4, 4u * k + 1u);
        let b2 = load_w(c + 2u * params.ldb4, 4u * k + 2u);
        let b3 = load_w(c + 3u * params.ldb4, 4u * k + 3u);
        for (var i = 0u; i < TM; i++) { // unroll
          acc[i * TN4 + j] += x[i].x * b0 + x[i].y * b1 + x[i].z * b2 + x[i].w * b3;
        }
      }
      w0 += 4u * params.ldb4;
    }
  }
  for (var i = 0u; i < TM; i++) { // unroll
    for (var j = 0u; j < TN4; j++) { // unroll
      store(r0 + i * WGY, c0 + j * WGX, group.z, acc[i * TN4 + j]);
    }
  }
}

const COLUMNS: u32 = TM + KERNEL - 1u; // of the input under TM neighbouring outputs

@compute @workgroup_size(WGX, WGY)
fn lines(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let runs = (params.out_width + TM - 1u) / TM;
  let run = group.y * WGY + local.y;
  let line = params.row0 / params.out_width + run / runs; // of all images
  let x0 = run % runs * TM;
  let first_tap = locate(min(line, (params.rows - 1u) / params.out_width) * params.out_width + x0, group.z);
  let depth = 4u * params.ldb4;
  let w0 = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * depth + min(c, params.n4 - 1u);
  var acc: array<vec4<f32>, TM>;
  for (var dy = 0u; dy < KERNEL; dy++) {
    var at: array<i32, COLUMNS>;
    for (var i = 0u; i < COLUMNS; i++) { // unroll
      at[i] = tap_index(first_tap + vec3<i32>(0, 0, i32(i)), dy * KERNEL);
    }
    for (var k = 0u; k < params.k4; k++) {
      var x: array<vec4<f32>, COLUMNS>;
      for (var i = 0u; i < COLUMNS; i++) { // unroll
        x[i] = load_a(at[i], k);
      }
      for (var dx = 0u; dx < KERNEL; dx++) { // unroll
        let at_w = w0 + ((dy * KERNEL + dx) * params.k4 + k) * depth;
        let b0 = w[at_w];
        let b1 = w[at_w + params.ldb4];
        let b2 = w[at_w + 2u * params.ldb4];
        let b3 = w[at_w + 3u * params.ldb4];
        for (var i = 0u; i < TM; i++) { // unroll
          let v = x[i + dx];
          acc[i] += v.x * b0 + v.y * b1 + v.z * b2 + v.w * b3;
        }
      }
    }
  }
  for (var i = 0u; i < TM; i++) { // unroll
    if (x0 + i < params.out_width) {
      store(line * params.out_width + x0 + i, c, group.z, acc[i]);
    }
  }
}

const ROW_PITCH: u32 = BK4 + 1u; // one vec4 of padding keeps the rows of a tile on different banks
var<workgroup> tile_a: array<vec4<f32>, WGY * TM * ROW_PITCH>;
var<workgroup> tile_w: array<vec4<f32>, 4u * BK4 * WGX * TN4>;

@compute @workgroup_size(WGX, WGY)
fn tiled(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) local: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let c0 = group.x * WGX * TN4;
  let r0 = params.row0 + group.y * WGY * TM;
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, LOAD_A>;
  for (var l = 0u; l < LOAD_A; l++) { // unroll
    row[l] = locate(min(r0 + (thread + l * WGX * WGY) / BK4, params.rows - 1u), group.z);
  }
  let w0 = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
    var at: array<i32, LOAD_A>;
    for (var l = 0u; l < LOAD_A; l++) { // unroll
      at[l] = tap_index(row[l], tap);
    }
    for (var k0 = 0u; k0 < params.k4; k0 += BK4) {
      for (var l = 0u; l < LOAD_A; l++) { // unroll
        let e = thread + l * WGX * WGY;
        let k = k0 + e % BK4;
        var v = vec4<f32>(0.0);
        if (k < params.k4) {
          v = load_a(at[l], k);
        }
        tile_a[e / BK4 * ROW_PITCH + e % BK4] = v;
      }
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        let e = thread + l * WGX * WGY;
        let k = 4u * k0 + e / (WGX * TN4);
        let c = min(c0 + e % (WGX * TN4), params.n4 - 1u);
        var v = vec4<f32>(0.0);
        if (k < 4u * params.k4) {
          v = load_w(w0 + (tap * 4u * params.k4 + k) * params.ldb4 + c, k);
        }
        tile_w[e] = v;
      }
      workgroupBarrier();
      for (var k = 0u; k < BK4; k++) { // unroll
        var x: array<vec4<f32>, TM>;
        for (var i = 0u; i < TM; i++) { // unroll
          x[i] = tile_a[(local.y + i * WGY) * ROW_PITCH + k];
        }
        for (var j = 0u; j < TN4; j++) { // unroll
          let at_w = 4u * k * WGX * TN4 + local.x + j * WGX;
          let b0 = tile_w[at_w];
          let b1 = tile_w[at_w + WGX * TN4];
          let b2 = tile_w[at_w + 2u * WGX * TN4];
          let b3 = tile_w[at_w + 3u * WGX * TN4];
          for (var i = 0u; i < TM; i++) { // unroll
            acc[i * TN4 + j] += x[i].x * b0 + x[i].y * b1 + x[i].z * b2 + x[i].w * b3;
          }
        }
      }
      workgroupBarrier();
    }
  }
  for (var i = 0u; i < TM; i++) { // unroll
    for (var j = 0u; j < TN4; j++) { // unroll
      store(r0 + local.y + i * WGY, c0 + local.x + j * WGX, group.z, acc[i * TN4 + j]);
    }
  }
}

const DEPTH: u32 = 4u * BK4; // of a tile
const RUN: u32 = WGY * TM + 4u; // a column of A's tile; four floats of padding spread the columns over the banks
var<workgroup> turned_a: array<f32, DEPTH * RUN>; // transposed

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

@compute @workgroup_size(WGX, WGY)
fn staged(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) local: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let c0 = group.x * WGX * TN4;
  let r0 = params.row0 + group.y * WGY * TM;
  let last = params.n4 - 1u;
  let steps = KERNEL * KERNEL * ((params.k4 + BK4 - 1u) / BK4);
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, LOAD_A>;
  var at: array<i32, LOAD_A>;
  var base = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  var next_a: array<vec4<f32>, LOAD_A>;
  var next_w: array<vec4<f32>, LOAD_W>;
  for (var l = 0u; l < LOAD_A; l++) { // unroll
    let e = thread + l * WGX * WGY;
    row[l] = locate(min(r0 + e / BK4, params.rows - 1u), group.z);
    at[l] = tap_index(row[l], 0u);
    next_a[l] = ahead_a(at[l], e % BK4);
  }
  for (var l = 0u; l < LOAD_W; l++) { // unroll
    let e = thread + l * WGX * WGY;
    next_w[l] = ahead_w(base, e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
  }
  var k0 = 0u;
  var tap = 0u;
  for (var step = 1u; step <= steps; step++) {
    for (var l = 0u; l < LOAD_A; l++) { // unroll
      let e = thread + l * WGX * WGY;
      let to = 4u * (e % BK4) * RUN + e / BK4;
      turned_a[to] = next_a[l].x;
      turned_a[to + RUN] = next_a[l].y;
      turned_a[to + 2u * RUN] = next_a[l].z;
      turned_a[to + 3u * RUN] = next_a[l].w;
    }
    for (var l = 0u; l < LOAD_W; l++) { // unroll
      tile_w[thread + l * WGX * WGY] = next_w[l];
    }
    workgroupBarrier();
    if (step < steps) { // what is loaded here is not waited for before the products are made
      k0 += BK4;
      if (KERNEL > 1u && k0 >= params.k4) {
        k0 = 0u;
        tap += 1u;
        base += 4u * params.k4 * params.ldb4;
        for (var l = 0u; l < LOAD_A; l++) { // unroll
          at[l] = tap_index(row[l], tap);
        }
      }
      for (var l = 0u; l < LOAD_A; l++) { // unroll
        next_a[l] = ahead_a(at[l], k0 + (thread + l * WGX * WGY) % BK4);
      }
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        let e = thread + l * WGX * WGY;
        next_w[l] = ahead_w(base, 4u * k0 + e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
      }
    }
    for (var k = 0u; k < DEPTH; k++) { // unroll
      var x: array<f32, TM>;
      for (var i = 0u; i < TM; i++) { // unroll
        x[i] = turned_a[k * RUN + local.y * TM + i];
      }
      for (var j = 0u; j < TN4; j++) { // unroll
        let b = tile_w[k * WGX * TN4 + local.x + j * WGX];
        for (var i = 0u; i < TM; i++) { // unroll
          acc[i * TN4 + j] += x[i] * b;
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < TM; i++) { // unroll
    for (var j = 0u; j < TN4; j++) { // unroll
      store(r0 + local.y * TM + i, c0 + local.x + j * WGX, group.z, acc[i * TN4 + j]);
    }
  }
}

// Each lane's sums over its part of K; one vec4 of padding keeps the sums that neighbouring lanes add up on different banks.
const LANES: u32 = WGX + 1u;
var<workgroup> parts: array<vec4<f32>, WGY * ACC * LANES>;

@compute @workgroup_size(WGX, WGY)
fn thin(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c0 = group.x * TN4;
  let r0 = params.row0 + (group.y * WGY + local.y) * TM;
  let last = params.n4 - 1u;
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, TM>;
  for (var i = 0u; i < TM; i++) { // unroll
    row[i] = locate(min(r0 + i, params.rows - 1u), group.z);
  }
  for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
    var at: array<i32, TM>;
    for (var i = 0u; i < TM; i++) { // unroll
      at[i] = tap_index(row[i], tap);
    }
    let base = params.w_offset + (group.z * KERNEL * KERNEL + tap) * params.k4 * 4u * params.ldb4;
    for (var k = local.x; k < params.k4; k += WGX) { // neighbouring lanes read neighbouring vec4 of A
      var x: array<vec4<f32>, TM>;
      for (var i = 0u; i < TM; i++) { // unroll
        x[i] = load_a(at[i], k);
      }
      for (var j = 0u; j < TN4; j++) { // unroll
        let at_w = base + 4u * k * params.ldb4 + min(c0 + j, last);
        let b0 = load_w(at_w, 4u * k);
        let b1 = load_w(at_w + params.ldb4, 4u * k + 1u);
        let b2 = load_w(at_w + 2u * params.ldb4, 4u * k + 2u);
        let b3 = load_w(at_w + 3u * params.ldb4, 4u * k + 3u);
        for (var i = 0u; i < TM; i++) { // unroll
          acc[i * TN4 + j] += x[i].x * b0 + x[i].y * b1 + x[i].z * b2 + x[i].w * b3;
        }
      }
    }
  }
  for (var o = 0u; o < ACC; o++) { // unroll
    parts[(local.y * ACC + o) * LANES + local.x] = acc[o];
  }
  workgroupBarrier();
  for (var o = local.x; o < ACC; o += WGX) {
    var sum = vec4<f32>(0.0);
    for (var lane = 0u; lane < WGX; lane++) {
      sum += parts[(local.y * ACC + o) * LANES + lane];
    }
    store(r0 + o / TN4, c0 + o % TN4, group.z, sum);
  }
}

const POINTS: u32 = 16u;

@compute @workgroup_size(WGX, WGY)
fn to_points(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let r = params.row0 + group.y * WGY + local.y;
  if (c >= params.k4 || r >= params.rows) {
    return;
  }
  let window = locate(r, 0u);
  var d: array<vec4<f32>, POINTS>;
  for (var t = 0u; t < POINTS; t++) { // unroll
    d[t] = load_a(tap_index(window, t), c);
  }
  for (var x = 0u; x < 4u; x++) { // unroll
    let p = d[4u + x];
    let q = d[8u + x];
    d[x] -= q;
    d[4u + x] = p + q;
    d[8u + x] = q - p;
    d[12u + x] = p - d[12u + x];
  }
  for (var y = 0u; y < 4u; y++) { // unroll
    let p = d[4u * y + 1u];
    let q = d[4u * y + 2u];
    d[4u * y] -= q;
    d[4u * y + 1u] = p + q;
    d[4u * y + 2u] = q - p;
    d[4u * y + 3u] = p - d[4u * y + 3u];
  }
  for (var t = 0u; t < POINTS; t++) { // unroll
    out[(t * params.plane + r - params.row0) * params.k4 + c] = d[t];
  }
}

@compute @workgroup_size(WGX, WGY)
fn from_points(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let r = params.row0 + group.y * WGY + local.y;
  if (c >= params.n4 || r >= params.rows) {
    return;
  }
  var m: array<vec4<f32>, POINTS>;
  for (var t = 0u; t < POINTS; t++) { // unroll
    m[t] = a[(t * params.plane + r - params.row0) * params.n4 + c];
  }
  let across = (params.out_width + 1u) / 2u;
  let down = (params.out_height + 1u) / 2u;
  let x0 = 2u * (r % across);
  let y0 = 2u * (r / across % down);
  let image = r / across / down;
  for (var x = 0u; x < 4u; x++) { // unroll
    let p = m[4u + x];
    let q = m[8u + x];
    m[x] += p + q;
    m[4u + x] = p - q - m[12u + x];
  }
  for (var y = 0u; y < 2u; y++) { // unroll
    if (y0 + y < params.out_height) {
      let row = (image * params.out_height + y0 + y) * params.out_width + x0;
      put(row, c, m[4u * y] + m[4u * y + 1u] + m[4u * y + 2u]);
      if (x0 + 1u < params.out_width) {
        put(row + 1u, c, m[4u * y + 1u] - m[4u * y + 2u] - m[4u * y + 3u]);
      }
    }
  }
}
