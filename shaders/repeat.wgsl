// out[copy·B + b, p, :] = x[b, p, :], for every copy.
//
// Grid: flat over the vec4 of out. Reference: Reference.repeat.

const SIZE: u32 = 64u;

struct Params {
  count: u32, // vec4 of x
  copies: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  if (index < params.count * params.copies) {
    out[index] = x[index % params.count];
  }
}
