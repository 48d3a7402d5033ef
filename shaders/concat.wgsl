// out[r, :] = [a[r, :], b[r, :], 0 …]: concatenation on channels.
//
// UNIT is vec4<f32> where both widths are multiples of four, else f32; all counts are in that unit.
// Grid: flat over out. Reference: Reference.concat.

alias UNIT = vec4<f32>;
const SIZE: u32 = 64u;

struct Params {
  rows: u32,
  a: u32, // what is taken of a row of a
  b: u32,
  a_pitch: u32,
  b_pitch: u32,
  pitch: u32,
}

@group(0) @binding(0) var<storage, read> a: array<UNIT>;
@group(0) @binding(1) var<storage, read> b: array<UNIT>;
@group(0) @binding(2) var<storage, read_write> out: array<UNIT>;
@group(0) @binding(3) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let r = index / params.pitch;
  let c = index % params.pitch;
  if (r >= params.rows) {
    return;
  }
  if (c < params.a) {
    out[index] = a[r * params.a_pitch + c];
  } else if (c < params.a + params.b) {
    out[index] = b[r * params.b_pitch + c - params.a];
  } else {
    out[index] = UNIT();
  }
}
