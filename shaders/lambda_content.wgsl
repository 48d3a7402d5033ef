// Self lambda, content part over one chunk of positions: max_m key, Σ_m e, Σ_m e·V with e = exp(key[m, k] - max).
//
// The softmax runs over positions, so each chunk keeps its own maximum and lambda_combine puts the chunks on a common one.
// qkv rows hold [heads·K4 | K4 | V4] vec4; sums [image][chunk][4·K4][V4]; stats [image][chunk][max, sum][K4]
// (lambda_combine reads the same as 4·K4 floats).
// Grid: flat over (image, chunk, K4, V4): a thread owns a 4×4 block of λ. Reference: Reference.self_lambda.

const SIZE: u32 = 64u;

struct Params {
  images: u32,
  positions: u32,
  pitch: u32, // vec4 of a row of qkv
  key: u32, // where the key begins in a row
  k4: u32,
  v4: u32,
  chunk: u32,
  chunks: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> stats: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let v = index % params.v4;
  let k = index / params.v4 % params.k4;
  let chunk = index / params.v4 / params.k4 % params.chunks;
  let image = index / params.v4 / params.k4 / params.chunks;
  if (image >= params.images) {
    return;
  }
  let first = chunk * params.chunk;
  let end = min(first + params.chunk, params.positions);
  let base = image * params.positions * params.pitch + params.key;
  var top = qkv[base + first * params.pitch + k];
  for (var m = first + 1u; m < end; m++) {
    top = max(top, qkv[base + m * params.pitch + k]);
  }
  var total = vec4<f32>(0.0);
  var s0 = vec4<f32>(0.0);
  var s1 = vec4<f32>(0.0);
  var s2 = vec4<f32>(0.0);
  var s3 = vec4<f32>(0.0);
  for (var m = first; m < end; m++) {
    let e = exp(at_least(qkv[base + m * params.pitch + k] - top, -80.0));
    let value = qkv[base + m * params.pitch + params.k4 + v];
    total += e;
    s0 += e.x * value;
    s1 += e.y * value;
    s2 += e.z * value;
    s3 += e.w * value;
  }
  let part = image * params.chunks + chunk;
  let to = (part * params.k4 + k) * 4u * params.v4 + v;
  sums[to] = s0;
  sums[to + params.v4] = s1;
  sums[to + 2u * params.v4] = s2;
  sums[to + 3u * params.v4] = s3;
  if (v == 0u) {
    stats[2u * part * params.k4 + k] = top;
    stats[(2u * part + 1u) * params.k4 + k] = total;
  }
}
