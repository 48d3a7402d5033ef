// Self lambda: λ[k, v] = Σ_c e_c·sums[c, k, v] / Σ_c e_c·sum[c, k] + bias[k] with e_c = exp(max[c, k] - max over chunks).
//
// bias is pos_conv's, added here because Σ_k Q[k]·(λc + bias) needs it once: λ = λc + bias.
// sums [image][chunk][4·K4][V4], stats [image][chunk][max, sum][4·K4], out [image][4·K4][V4].
// Grid: flat over (image, 4·K4, V4). Reference: Reference.self_lambda.

const SIZE: u32 = 64u;

struct Params {
  images: u32,
  k: u32, // 4·K4
  v4: u32,
  chunks: u32,
}

@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let v = index % params.v4;
  let k = index / params.v4 % params.k;
  let image = index / params.v4 / params.k;
  if (image >= params.images) {
    return;
  }
  let first = image * params.chunks;
  var top = stats[2u * first * params.k + k];
  for (var c = 1u; c < params.chunks; c++) {
    top = max(top, stats[2u * (first + c) * params.k + k]);
  }
  var sum = vec4<f32>(0.0);
  var total = 0.0;
  for (var c = first; c < first + params.chunks; c++) {
    let e = exp(max(stats[2u * c * params.k + k] - top, -80.0));
    total += e * stats[(2u * c + 1u) * params.k + k];
    sum += e * sums[(c * params.k + k) * params.v4 + v];
  }
  out[index] = sum / total + bias[k];
}
