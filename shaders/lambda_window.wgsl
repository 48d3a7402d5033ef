// y[n, h, v] = Σ_k Q[n, h, k]·λ[k, v] + Σ_d (Σ_k Q[n, h, k]·Wpos[k, d])·V[n + d, v] + residual[n, h·v_dim + v], d over a 15×15 window
//
// What gemm and lambda_apply do, for GPUs: the positional logits Q·Wpos never leave the workgroup. It has RUN neighbouring positions of a
// line, LANES threads each; for one line of the window after the other it stages the values under it, makes the logits, and adds.
// With the rows complete in the workgroup, their variance is written too, for the layer norm behind.
// qkv rows hold [heads·K4 | K4 | V4] vec4, K4 = V4 = LANES; lambda [image][4·K4][V4]; filters [4·K4][15 lines][4], every line padded to
// 16 by zero; out (B, P, pitch floats); variance a vec4 a row. Grid: (runs of a line, lines, images). Reference: Reference.self_lambda.

const HEADS: u32 = 8u;
const WINDOW: u32 = 15u;
const RUN: u32 = 4u;
const LANES: u32 = 10u;
const SHARE: u32 = 1u; // neighbouring positions whose logits a thread makes, of the same head
const SIZE: u32 = RUN * LANES;
const COLUMNS: u32 = RUN + WINDOW; // of the input under RUN positions and 16 columns of the window
const LOGITS: u32 = RUN * HEADS * 4u; // vec4 of a line of the window

struct Params {
  height: u32,
  width: u32,
  qkv_pitch: u32, // vec4 of a row of qkv
  v_dim: u32, // channels of a head
  pitch: u32, // floats of a row of out
}

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> lambda: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> filters: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> variance: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

// include moments.wgsl

var<workgroup> value: array<vec4<f32>, COLUMNS * LANES>;
var<workgroup> logit: array<vec4<f32>, LOGITS>; // [position][head][4]

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let v = local % LANES;
  let p = local / LANES;
  let x0 = group.x * RUN;
  let first_row = group.z * params.height * params.width; // of the image
  let line = first_row + group.y * params.width;
  let reach = WINDOW / 2u;
  let value0 = (HEADS + 1u) * LANES; // where V lies in a row of qkv
  var acc: array<vec4<f32>, HEADS>;
  for (var dy = 0u; dy < WINDOW; dy++) {
    if (group.y + dy < reach || group.y + dy >= params.height + reach) {
      continue;
    }
    let above = first_row + (group.y + dy - reach) * params.width;
    for (var i = local; i < COLUMNS * LANES; i += SIZE) {
      let column = x0 + i / LANES; // + reach
      var staged = vec4<f32>(0.0);
      if (column >= reach && column < params.width + reach) {
        staged = qkv[(above + column - reach) * params.qkv_pitch + value0 + i % LANES];
      }
      value[i] = staged;
    }
    for (var o = local; o < LOGITS / SHARE; o += SIZE) {
      let d = o % 4u;
      let h = o / 4u % HEADS;
      let to = o / 4u / HEADS * SHARE; // the first of SHARE positions
      var sum: array<vec4<f32>, SHARE>;
      for (var i = 0u; i < SHARE; i++) { // unroll
        sum[i] = vec4<f32>(0.0); // said: naga makes a variable of a loop zero once
      }
      for (var k = 0u; k < LANES; k++) {
        let at = (4u * k * WINDOW + dy) * 4u + d;
        let w0 = filters[at];
        let w1 = filters[at + 4u * WINDOW];
        let w2 = filters[at + 8u * WINDOW];
        let w3 = filters[at + 12u * WINDOW];
        for (var i = 0u; i < SHARE; i++) { // unroll
          let q = qkv[(line + min(x0 + to + i, params.width - 1u)) * params.qkv_pitch + h * LANES + k];
          sum[i] += q.x * w0 + q.y * w1 + q.z * w2 + q.w * w3;
        }
      }
      for (var i = 0u; i < SHARE; i++) { // unroll
        logit[((to + i) * HEADS + h) * 4u + d] = sum[i];
      }
    }
    workgroupBarrier();
    for (var d = 0u; d < 4u; d++) { // unroll
      let at = (p + 4u * d) * LANES + v;
      let v0 = value[at];
      let v1 = value[at + LANES];
      let v2 = value[at + 2u * LANES];
      let v3 = value[at + 3u * LANES];
      for (var h = 0u; h < HEADS; h++) { // unroll
        let l = logit[(p * HEADS + h) * 4u + d];
        acc[h] += l.x * v0 + l.y * v1 + l.z * v2 + l.w * v3;
      }
    }
    workgroupBarrier();
  }
  let row = line + min(x0 + p, params.width - 1u);
  for (var k = 0u; k < LANES; k++) {
    let at = (group.z * LANES + k) * 4u * LANES + v;
    let l0 = lambda[at];
    let l1 = lambda[at + LANES];
    let l2 = lambda[at + 2u * LANES];
    let l3 = lambda[at + 3u * LANES];
    for (var h = 0u; h < HEADS; h++) { // unroll
      let q = qkv[row * params.qkv_pitch + h * LANES + k];
      acc[h] += q.x * l0 + q.y * l1 + q.z * l2 + q.w * l3;
    }
  }
  let channels = min(params.v_dim - 4u * v, 4u);
  let is_there = x0 + p < params.width;
  var shift = 0.0; // the first of this thread's channels, for a variance that does not cancel
  var sum = 0.0;
  var squares = 0.0;
  for (var h = 0u; h < HEADS; h++) { // unroll
    let to = row * params.pitch + h * params.v_dim + 4u * v;
    for (var i = 0u; i < channels; i++) {
      let y = acc[h][i] + residual[to + i];
      if (h + i == 0u) {
        shift = y;
      }
      sum += y - shift;
      squares += (y - shift) * (y - shift);
      if (is_there) {
        out[to + i] = y;
      }
    }
  }
  let n = f32(HEADS * channels);
  value[local] = vec4<f32>(n, shift + sum / n, squares - sum * (sum / n), 0.0); // n, mean, M2 of this thread's channels
  workgroupBarrier();
  if (v == 0u && is_there) {
    var all = value[local].xyz;
    for (var i = 1u; i < LANES; i++) {
      all = merged(all, value[local + i].xyz);
    }
    variance[row] = vec4<f32>(all.z / all.x, 0.0, 0.0, 0.0);
    for (var c = HEADS * params.v_dim; c < params.pitch; c++) { // the padding of the row
      out[row * params.pitch + c] = 0.0;
    }
  }
}
