// GroupNorm, last: y = x·scale + offset, then SiLU when asked.
//
// x, y (B, P, C4); table [image][scale, offset][C4] from group_scale or group_finish. Grid: flat over the vec4 of this dispatch.
// Reference: Reference.group_norm.

const SILU: bool = false;
const SIZE: u32 = 64u;

struct Params {
  first: u32, // index of this dispatch's first vec4, which is also the first of the bound windows
  count: u32,
  c4: u32,
  image: u32, // vec4 of one image
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  if (index >= params.count) {
    return;
  }
  let c = (params.first + index) % params.c4;
  let at = (params.first + index) / params.image * 2u * params.c4 + c;
  let y = x[index] * table[at] + table[at + params.c4];
  if (SILU) {
    out[index] = silu(y);
  } else {
    out[index] = y;
  }
}
