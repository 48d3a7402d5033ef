// GroupNorm of large tensors, second of three: merges a group's chunks into scale = weight/√(var + eps), offset = bias - mean·scale.
//
// parts [image][chunk][group] (mean, M2); weight, bias [C]; out [image][scale, offset][4·C4], zero in the padding.
// Grid: flat over (image, 4·C4). Two passes over the chunks: the mean first, then M2 about it. Reference: Reference.group_norm.

const SIZE: u32 = 64u;

struct Params {
  images: u32,
  positions: u32,
  pitch: u32, // 4·C4
  channels: u32, // of one group
  groups: u32,
  chunk: u32,
  chunks: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> parts: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// include common.wgsl

fn size_of(chunk: u32) -> f32 {
  return f32((min((chunk + 1u) * params.chunk, params.positions) - chunk * params.chunk) * params.channels);
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let image = index / params.pitch;
  let c = index % params.pitch;
  if (image >= params.images) {
    return;
  }
  var scale = 0.0;
  var offset = 0.0;
  if (c < params.channels * params.groups) {
    let at = image * params.chunks * params.groups + c / params.channels;
    let count = f32(params.positions * params.channels);
    var mean = 0.0;
    for (var i = 0u; i < params.chunks; i++) {
      mean += parts[at + i * params.groups].x * (size_of(i) / count);
    }
    var m2 = 0.0;
    for (var i = 0u; i < params.chunks; i++) {
      let p = parts[at + i * params.groups];
      m2 += p.y + size_of(i) * (p.x - mean) * (p.x - mean);
    }
    scale = weight[c] / sqrt(m2 / count + params.eps);
    offset = bias[c] - mean * scale;
  }
  out[2u * image * params.pitch + c] = scale;
  out[(2u * image + 1u) * params.pitch + c] = offset;
}
