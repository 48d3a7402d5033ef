// y[n, h, v] = Σ_m (Σ_k Q[n, h, k]·(E[n, m, k] + K[m, k]))·V[m, v] + residual[n, h·v_dim + v]
//
// K (softmax over the tokens) and V depend on the condition alone and are constants made at load. Kept in the (Q·rel)·V
// order the rank is m = 10 and λ, k·v numbers a position, is never formed.
// VARIANCE: of the rows of y, written too, for the layer norm behind; a workgroup has whole rows then.
// q (B·P, heads·K4); table (P, m, K4); keys (B, m, K4); values (B, m, V4); out (B·P, pitch floats), floats as in lambda_apply.
// Grid: flat over (image·P, head). Reference: Reference.cross_lambda.

const HEADS: u32 = 8u;
const TOKENS: u32 = 10u;
const SIZE: u32 = 64u;
const VARIANCE: bool = false; // HEADS divides SIZE

struct Params {
  images: u32,
  positions: u32,
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
@group(0) @binding(6) var<storage, read_write> variance: array<vec4<f32>>;
@group(0) @binding(7) var<uniform> params: Params;

// include common.wgsl

var<workgroup> part: array<vec2<f32>, SIZE>; // mean and M2 of a thread's channels

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let h = index % HEADS;
  let rows = params.images * params.positions;
  let is_there = index / HEADS < rows; // the others take part in the barrier
  let row = min(index / HEADS, rows - 1u);
  let image = row / params.positions;
  let position = row % params.positions;
  var logit: array<f32, TOKENS>;
  for (var k = 0u; k < params.k4; k++) {
    let x = q[row * params.q_pitch + h * params.k4 + k];
    for (var m = 0u; m < TOKENS; m++) { // unroll
      logit[m] += dot(x, table[(position * TOKENS + m) * params.k4 + k] + keys[(image * TOKENS + m) * params.k4 + k]);
    }
  }
  var shift = 0.0; // the first of this thread's channels, for a variance that does not cancel
  var sum = 0.0;
  var squares = 0.0;
  for (var v = 0u; v < params.v4; v++) {
    var acc = vec4<f32>(0.0);
    for (var m = 0u; m < TOKENS; m++) { // unroll
      acc += logit[m] * values[(image * TOKENS + m) * params.v4 + v];
    }
    let to = row * params.pitch + h * params.v_dim + 4u * v;
    for (var i = 0u; i < min(params.v_dim - 4u * v, 4u); i++) {
      let y = acc[i] + residual[to + i];
      if (VARIANCE) { // compiled
        if (v + i == 0u) {
          shift = y;
        }
        sum += y - shift;
        squares += (y - shift) * (y - shift);
      }
      if (is_there) {
        out[to + i] = y;
      }
    }
  }
  if (VARIANCE) { // compiled
    let n = f32(params.v_dim);
    part[local] = vec2<f32>(shift + sum / n, squares - sum * (sum / n));
    workgroupBarrier();
    if (h == 0u && is_there) {
      var mean = 0.0;
      for (var i = 0u; i < HEADS; i++) {
        mean += part[local + i].x / f32(HEADS);
      }
      var m2 = 0.0;
      for (var i = 0u; i < HEADS; i++) {
        let d = part[local + i].x - mean;
        m2 += part[local + i].y + n * d * d;
      }
      variance[row] = vec4<f32>(m2 / (n * f32(HEADS)), 0.0, 0.0, 0.0);
    }
  }
  if (h == 0u && is_there) { // the padding of the row
    for (var c = HEADS * params.v_dim; c < params.pitch; c++) {
      out[row * params.pitch + c] = 0.0;
    }
  }
}
