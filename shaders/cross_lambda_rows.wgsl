// y[n, h, v] = Σ_m (Σ_k Q[n, h, k]·(E[n, m, k] + K[m, k]))·V[m, v] + residual[n, h·v_dim + v]
//
// What cross_lambda does, for GPUs. A thread takes EACH heads of one vec4 of k of its row, so that E + K and then V are loaded once for them;
// the LANES threads beside it take the others, so that neighbours load neighbours. Their sums of a logit are added up in workgroup memory.
// With the rows complete in the workgroup, their variance is written too, for the layer norm behind.
// The rows of q and of the residual are `sources`, and repeated where the condition has more.
// q (B·P, heads·K4); table (P, m, K4); keys (B, m, K4); values (B, m, K4); out (B·P, pitch floats); variance a vec4 a row.
// Grid: flat over rows, ROWS a workgroup. Reference: Reference.cross_lambda.

const HEADS: u32 = 8u;
const TOKENS: u32 = 10u;
alias Number = f32; // of residual and out; with WHOLE vec4<f32>
const WHOLE: bool = false; // every head's channels fill their vec4
const EACH: u32 = 4u; // heads of a thread; it divides HEADS
const LANES: u32 = 10u; // at most K4
const ROWS: u32 = 2u;
const TEAMS: u32 = HEADS / EACH; // of LANES threads, for a row
const SIZE: u32 = ROWS * TEAMS * LANES;
const OWN: u32 = EACH * TOKENS; // logits that a thread has sums of
const LOGITS: u32 = ROWS * HEADS * TOKENS; // [row][head][token]
const PITCH: u32 = LOGITS / 2u * 2u + 1u; // an odd number keeps lanes on different banks

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

var<workgroup> part: array<f32, LANES * PITCH>; // [lane][logit]
var<workgroup> logit: array<f32, LOGITS>;
var<workgroup> moments: array<vec4<f32>, SIZE>;

// n, mean, M2 of `count` parts together, about the mean of the first: one by one, as in moments.wgsl, they wait for two divisions each.
fn together(at: u32, count: u32, stride: u32) -> vec4<f32> {
  let shift = moments[at].y;
  var stored = Stored(0.0, shift, 0.0, 0.0);
  for (var j = 0u; j < count; j++) {
    let one = moments[at + j * stride];
    let off = one.y - shift;
    stored.n += one.x;
    stored.sum += one.x * off;
    stored.squares += one.z + one.x * off * off;
  }
  return moments_of(stored);
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let lane = local % LANES;
  let which = local / LANES; // row and team
  let head = which % TEAMS * EACH; // the first
  let index = flat_index(group, groups, which / TEAMS, ROWS);
  let is_there = index < params.rows; // the others take part in the barriers
  let row = min(index, params.rows - 1u);
  let image = row / params.positions;
  let position = row % params.positions;
  let source = row % params.sources;
  var sums: array<f32, OWN>;
  for (var k = lane; k < params.k4; k += LANES) {
    var x: array<vec4<f32>, EACH>;
    for (var h = 0u; h < EACH; h++) { // unroll
      x[h] = q[source * params.q_pitch + (head + h) * params.k4 + k];
    }
    for (var m = 0u; m < TOKENS; m++) { // unroll
      let key = table[(position * TOKENS + m) * params.k4 + k] + keys[(image * TOKENS + m) * params.k4 + k];
      for (var h = 0u; h < EACH; h++) { // unroll
        sums[h * TOKENS + m] += dot(x[h], key);
      }
    }
  }
  for (var i = 0u; i < OWN; i++) { // unroll
    part[lane * PITCH + which * OWN + i] = sums[i];
  }
  workgroupBarrier();
  for (var i = local; i < LOGITS; i += SIZE) {
    var total = 0.0;
    for (var j = 0u; j < LANES; j++) { // unroll
      total += part[j * PITCH + i];
    }
    logit[i] = total;
  }
  workgroupBarrier();
  var weight: array<f32, OWN>;
  for (var i = 0u; i < OWN; i++) { // unroll
    weight[i] = logit[which * OWN + i];
  }
  var stored = Stored();
  for (var v = lane; v < params.k4; v += LANES) {
    var acc = array<vec4<f32>, EACH>();
    for (var m = 0u; m < TOKENS; m++) { // unroll
      let value = values[(image * TOKENS + m) * params.k4 + v];
      for (var h = 0u; h < EACH; h++) { // unroll
        acc[h] += weight[h * TOKENS + m] * value;
      }
    }
    for (var h = 0u; h < EACH; h++) { // unroll
      let at = (head + h) * params.v_dim + 4u * v;
      let channels = min(params.v_dim - 4u * v, 4u);
      stored = put(stored, v == lane && h == 0u, acc[h], row * params.pitch + at, source * params.pitch + at, channels, is_there);
    }
  }
  moments[local] = moments_of(stored);
  workgroupBarrier();
  if (lane == 0u) {
    moments[local] = together(local, LANES, 1u);
  }
  workgroupBarrier();
  if (lane + head == 0u && is_there) {
    end_row(row, together(local, TEAMS, LANES).xyz);
  }
}
