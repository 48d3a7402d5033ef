// Self lambda, content: λ[k, v] = Σ_m e[m, k]·V[m, v] / Σ_m e[m, k] + bias[k] with e[m, k] = exp(key[m, k] - max over m).
//
// bias is pos_conv's, added here because Σ_k Q[k]·(λc + bias) needs it once: λ = λc + bias. The softmax runs over positions.
// A workgroup makes 4 rows of LANES·TV4 vec4 of λ. LINES positions are under way at a time, AHEAD times over; the lanes of one read
// neighbouring vec4. Keys are read once: a thread knows the largest ones so far, and where larger ones come its sums shrink,
// Σ ← Σ·exp(old - new). Behind that the threads' sums are brought to one maximum and added up in a fixed order.
// qkv rows hold [heads·K4 | K4 | V4] vec4; bias [4·K4]; out [image][4·K4][V4]. Grid: (V4 / (LANES·TV4), K4, images).
// Reference: Reference.self_lambda.

const LINES: u32 = 64u; // a multiple of PARTS
const LANES: u32 = 1u;
const TV4: u32 = 1u; // vec4 of a thread; LANES·TV4 divides V4
const AHEAD: u32 = 4u; // positions whose loads a thread has under way
const PARTS: u32 = 8u; // threads that share a sum over the lines
const SIZE: u32 = LINES * LANES;
const SHARED: u32 = PARTS * LANES;
const WIDE: u32 = LANES * TV4;
const SUMS: u32 = 4u * TV4 + 1u; // Σ e, then Σ e·V for each of the four keys and TV4 vec4
const LOADED: u32 = AHEAD * TV4;

struct Params {
  positions: u32,
  pitch: u32, // vec4 of a row of qkv
  key: u32, // where the key begins in a row
  k4: u32,
  v4: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

// include common.wgsl

var<workgroup> part: array<vec4<f32>, SUMS * SIZE>; // [sum][line][lane]

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let k = group.y;
  let lane = local % LANES;
  let base = group.z * params.positions * params.pitch + params.key;
  let v = params.k4 + group.x * WIDE + lane;
  var top = vec4<f32>(-1e30);
  var sum: array<vec4<f32>, SUMS>;
  for (var m = local / LANES; m < params.positions; m += AHEAD * LINES) {
    var key: array<vec4<f32>, AHEAD>;
    var value: array<vec4<f32>, LOADED>;
    for (var i = 0u; i < AHEAD; i++) { // unroll
      let row = base + min(m + i * LINES, params.positions - 1u) * params.pitch;
      key[i] = qkv[row + k];
      for (var j = 0u; j < TV4; j++) { // unroll
        value[i * TV4 + j] = qkv[row + v + j * LANES];
      }
    }
    let old = top;
    for (var i = 0u; i < AHEAD; i++) { // unroll
      top = max(top, key[i]);
    }
    let less = exp(at_least(old - top, -80.0));
    sum[0] *= less;
    for (var j = 0u; j < TV4; j++) { // unroll
      sum[1u + j] *= less.x;
      sum[1u + TV4 + j] *= less.y;
      sum[1u + 2u * TV4 + j] *= less.z;
      sum[1u + 3u * TV4 + j] *= less.w;
    }
    for (var i = 0u; i < AHEAD; i++) { // unroll
      let e = select(vec4<f32>(0.0), exp(at_least(key[i] - top, -80.0)), m + i * LINES < params.positions);
      sum[0] += e;
      for (var j = 0u; j < TV4; j++) { // unroll
        sum[1u + j] += e.x * value[i * TV4 + j];
        sum[1u + TV4 + j] += e.y * value[i * TV4 + j];
        sum[1u + 2u * TV4 + j] += e.z * value[i * TV4 + j];
        sum[1u + 3u * TV4 + j] += e.w * value[i * TV4 + j];
      }
    }
  }
  // The maximum of all lines, by PARTS of them and then by every thread: a tree would have more barriers.
  part[local] = top;
  workgroupBarrier();
  if (local < SHARED) {
    for (var i = local + SHARED; i < SIZE; i += SHARED) {
      part[local] = max(part[local], part[i]);
    }
  }
  workgroupBarrier();
  let old = top;
  for (var i = 0u; i < PARTS; i++) { // unroll
    top = max(top, part[i * LANES + lane]);
  }
  workgroupBarrier();
  // A thread without a position has sums of zero, which stay that.
  let less = exp(at_least(old - top, -80.0));
  part[local] = sum[0] * less;
  for (var j = 0u; j < TV4; j++) { // unroll
    part[(1u + j) * SIZE + local] = sum[1u + j] * less.x;
    part[(1u + TV4 + j) * SIZE + local] = sum[1u + TV4 + j] * less.y;
    part[(1u + 2u * TV4 + j) * SIZE + local] = sum[1u + 2u * TV4 + j] * less.z;
    part[(1u + 3u * TV4 + j) * SIZE + local] = sum[1u + 3u * TV4 + j] * less.w;
  }
  workgroupBarrier();
  for (var i = local; i < SUMS * SHARED; i += SIZE) {
    let to = i / SHARED * SIZE + i % SHARED;
    var all = part[to];
    for (var l = SHARED; l < SIZE; l += SHARED) {
      all += part[to + l];
    }
    part[to] = all;
  }
  workgroupBarrier();
  for (var i = local; i < 4u * WIDE; i += SIZE) {
    let key = i / WIDE;
    var total = 0.0;
    var all = vec4<f32>(0.0);
    for (var l = 0u; l < PARTS; l++) { // unroll
      total += part[l * LANES][key];
      all += part[(1u + i / LANES) * SIZE + l * LANES + i % LANES];
    }
    let row = 4u * k + key;
    out[(4u * group.z * params.k4 + row) * params.v4 + group.x * WIDE + i % WIDE] = all / total + bias[row];
  }
}
