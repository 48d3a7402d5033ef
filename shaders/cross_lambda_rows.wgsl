// y[n, h, v] = Σ_m (Σ_k Q[n, h, k]·(E[n, m, k] + K[m, k]))·V[m, v] + residual[n, h·v_dim + v]
//
// What cross_lambda does, for GPUs: a row and head is LANES threads, which share K and then V, so that neighbours load neighbours.
// Their sums of a logit are added up in workgroup memory. With the rows complete in the workgroup, their variance is written too, for the
// layer norm behind.
// The rows of q and of the residual are `sources`, and repeated where the condition has more.
// q (B·P, heads·K4); table (P, m, K4); keys (B, m, K4); values (B, m, K4); out (B·P, pitch floats); variance a vec4 a row.
// Grid: flat over rows, ROWS a workgroup. Reference: Reference.cross_lambda.

const HEADS: u32 = 8u;
const TOKENS: u32 = 10u;
alias Number = f32; // of residual and out; with WHOLE vec4<f32>
const WHOLE: bool = false; // every head's channels fill their vec4
const LANES: u32 = 10u; // at most K4
const ROWS: u32 = 2u;
const SUMS: u32 = ROWS * HEADS;
const SIZE: u32 = SUMS * LANES;

struct Params {
  rows: u32,
  positions: u32,
  sources: u32, // rows of q
  q_pitch: u32, // vec4 of a row of q
  k4: u32,
  v_dim: u32, // channels of a head
  pitch: u32, // floats of a row of out
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> residual: array<Number>;
@group(0) @binding(5) var<storage, read_write> out: array<Number>;
@group(0) @binding(6) var<storage, read_write> variance: array<vec4<f32>>;
@group(0) @binding(7) var<uniform> params: Params;

// include common.wgsl
// include rows.wgsl

var<workgroup> part: array<f32, TOKENS * SIZE>; // [token][row and head][lane]
var<workgroup> logit: array<f32, TOKENS * SUMS>;
var<workgroup> moments: array<vec4<f32>, SIZE>;

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let lane = local % LANES;
  let which = local / LANES; // row and head
  let h = which % HEADS;
  let index = flat_index(group, groups, which / HEADS, ROWS);
  let is_there = index < params.rows; // the others take part in the barriers
  let row = min(index, params.rows - 1u);
  let image = row / params.positions;
  let position = row % params.positions;
  let source = row % params.sources;
  var sums: array<f32, TOKENS>;
  for (var k = lane; k < params.k4; k += LANES) {
    let x = q[source * params.q_pitch + h * params.k4 + k];
    for (var m = 0u; m < TOKENS; m++) { // unroll
      sums[m] += dot(x, table[(position * TOKENS + m) * params.k4 + k] + keys[(image * TOKENS + m) * params.k4 + k]);
    }
  }
  for (var m = 0u; m < TOKENS; m++) { // unroll
    part[m * SIZE + local] = sums[m];
  }
  workgroupBarrier();
  for (var i = local; i < TOKENS * SUMS; i += SIZE) {
    var total = 0.0;
    for (var j = 0u; j < LANES; j++) { // unroll
      total += part[i * LANES + j];
    }
    logit[i] = total;
  }
  workgroupBarrier();
  var weight: array<f32, TOKENS>;
  for (var m = 0u; m < TOKENS; m++) { // unroll
    weight[m] = logit[m * SUMS + which];
  }
  var stored = Stored();
  for (var v = lane; v < params.k4; v += LANES) {
    var acc = vec4<f32>(0.0);
    for (var m = 0u; m < TOKENS; m++) { // unroll
      acc += weight[m] * values[(image * TOKENS + m) * params.k4 + v];
    }
    let at = h * params.v_dim + 4u * v;
    stored = put(stored, v == lane, acc, row * params.pitch + at, source * params.pitch + at, min(params.v_dim - 4u * v, 4u), is_there);
  }
  moments[local] = moments_of(stored);
  workgroupBarrier();
  if (lane == 0u) {
    var head = moments[local].xyz;
    for (var j = 1u; j < LANES; j++) {
      head = merged(head, moments[local + j].xyz);
    }
    moments[local] = vec4<f32>(head, 0.0);
  }
  workgroupBarrier();
  if (lane + h == 0u && is_there) {
    var all = moments[local].xyz;
    for (var j = 1u; j < HEADS; j++) {
      all = merged(all, moments[local + j * LANES].xyz);
    }
    end_row(row, all);
  }
}
