// GroupNorm of large tensors, second of three: merges a group's chunks into scale = weight/√(var + eps), offset = bias - mean·scale.
//
// parts [image][chunk][group] (mean, M2); weight, bias [C]; out [image][scale, offset][4·C4], zero in the padding.
// Grid: (groups, images). A thread merges some chunks, and the threads' are merged in a fixed order. Reference: Reference.group_norm.

const SIZE: u32 = 64u;

struct Params {
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

// include moments.wgsl

var<workgroup> part: array<vec3<f32>, SIZE>; // n, mean, M2

fn size_of(chunk: u32) -> f32 {
  return f32((min((chunk + 1u) * params.chunk, params.positions) - chunk * params.chunk) * params.channels);
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  var all = vec3<f32>(0.0);
  for (var i = local; i < params.chunks; i += SIZE) {
    let p = parts[(group.y * params.chunks + i) * params.groups + group.x];
    all = merged(all, vec3<f32>(size_of(i), p));
  }
  part[local] = all;
  for (var half = SIZE / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) {
      part[local] = merged(part[local], part[local + half]);
    }
  }
  workgroupBarrier();
  let mean = part[0].y;
  let deviation = sqrt(part[0].z / part[0].x + params.eps);
  let to = 2u * group.y * params.pitch;
  for (var i = local; i < params.channels; i += SIZE) {
    let c = group.x * params.channels + i;
    let scale = weight[c] / deviation;
    out[to + c] = scale;
    out[to + params.pitch + c] = bias[c] - mean * scale;
  }
  for (var c = params.channels * params.groups + local; group.x == 0u && c < params.pitch; c += SIZE) { // the padding of the rows
    out[to + c] = 0.0;
    out[to + params.pitch + c] = 0.0;
  }
}
