// Self lambda, content: λ[k, v] = Σ_m e[m, k]·V[m, v] / Σ_m e[m, k] + bias[k] with e[m, k] = exp(key[m, k] - max over m).
//
// bias is pos_conv's, added here because Σ_k Q[k]·(λc + bias) needs it once: λ = λc + bias. The softmax runs over positions.
// A workgroup makes 4 rows of TV4 vec4 of λ: its threads share the positions, and their sums are added up in its memory.
// qkv rows hold [heads·K4 | K4 | V4] vec4; bias [4·K4]; out [image][4·K4][V4]. Grid: (V4 / TV4, K4, images).
// Reference: Reference.self_lambda.

const SIZE: u32 = 64u;
const TV4: u32 = 1u; // it divides V4
const BLOCK: u32 = 4u * TV4;
const SUMS: u32 = BLOCK + 1u;

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

var<workgroup> part: array<vec4<f32>, SUMS * SIZE>; // Σ e, then Σ e·V for each of the four keys and TV4 vec4

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let v = group.x * TV4;
  let k = group.y;
  let base = group.z * params.positions * params.pitch + params.key;
  var top = vec4<f32>(-1e30);
  for (var m = local; m < params.positions; m += SIZE) {
    top = max(top, qkv[base + m * params.pitch + k]);
  }
  part[local] = top;
  for (var half = SIZE / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) {
      part[local] = max(part[local], part[local + half]);
    }
  }
  workgroupBarrier();
  top = part[0];
  workgroupBarrier();
  var total = vec4<f32>(0.0);
  var sum: array<vec4<f32>, BLOCK>;
  for (var m = local; m < params.positions; m += SIZE) {
    let e = exp(at_least(qkv[base + m * params.pitch + k] - top, -80.0));
    total += e;
    for (var j = 0u; j < TV4; j++) { // unroll
      let value = qkv[base + m * params.pitch + params.k4 + v + j];
      sum[j] += e.x * value;
      sum[TV4 + j] += e.y * value;
      sum[2u * TV4 + j] += e.z * value;
      sum[3u * TV4 + j] += e.w * value;
    }
  }
  part[local] = total;
  for (var i = 0u; i < BLOCK; i++) { // unroll
    part[local + (i + 1u) * SIZE] = sum[i];
  }
  for (var half = SIZE / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) {
      for (var i = 0u; i < SUMS; i++) { // unroll
        part[local + i * SIZE] += part[local + i * SIZE + half];
      }
    }
  }
  workgroupBarrier();
  for (var i = local; i < BLOCK; i += SIZE) {
    let key = i / TV4;
    let row = 4u * k + key;
    out[(4u * group.z * params.k4 + row) * params.v4 + v + i % TV4] = part[(i + 1u) * SIZE] / part[0][key] + bias[row];
  }
}
