// y[n, h, v] = Σ_m (Σ_k Q[n, h, k]·(E[n, m, k] + K[m, k]))·V[m, v] + residual[n, h·v_dim + v]
//
// K (softmax over the tokens) and V depend on the condition alone and are constants made at load. Kept in the (Q·rel)·V
// order the rank is m = 10 and λ, k·v numbers a position, is never formed.
// GPUs have cross_lambda_rows.
// The rows of q and of the residual are `sources`, and repeated where the condition has more.
// q (B·P, heads·K4); table (P, m, K4); keys (B, m, K4); values (B, m, V4); out (B·P, pitch floats), floats as in lambda_apply.
// Grid: flat over (image·P, head). Reference: Reference.cross_lambda.

const HEADS: u32 = 8u;
const TOKENS: u32 = 10u;
const SIZE: u32 = 64u;

struct Params {
  images: u32,
  positions: u32,
  sources: u32, // rows of q
  q_pitch: u32, // vec4 of a row of q
  k4: u32,
  v4: u32,
  v_dim: u32,
  pitch: u32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let h = index % HEADS;
  let row = index / HEADS;
  if (row >= params.images * params.positions) {
    return;
  }
  let image = row / params.positions;
  let position = row % params.positions;
  let source = row % params.sources;
  var logit: array<f32, TOKENS>;
  for (var k = 0u; k < params.k4; k++) {
    let x = q[source * params.q_pitch + h * params.k4 + k];
    for (var m = 0u; m < TOKENS; m++) { // unroll
      logit[m] += dot(x, table[(position * TOKENS + m) * params.k4 + k] + keys[(image * TOKENS + m) * params.k4 + k]);
    }
  }
  for (var v = 0u; v < params.v4; v++) {
    var acc = vec4<f32>(0.0);
    for (var m = 0u; m < TOKENS; m++) { // unroll
      acc += logit[m] * values[(image * TOKENS + m) * params.v4 + v];
    }
    let at = h * params.v_dim + 4u * v;
    let to = row * params.pitch + at;
    for (var i = 0u; i < min(params.v_dim - 4u * v, 4u); i++) {
      let y = acc[i] + residual[source * params.pitch + at + i];
      out[to + i] = y;
    }
  }
  if (h == 0u) { // the padding of the row
    for (var c = HEADS * params.v_dim; c < params.pitch; c++) {
      out[row * params.pitch + c] = 0.0;
    }
  }
}
