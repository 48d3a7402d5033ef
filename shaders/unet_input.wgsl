// out[b, p, :] = [y[b, p, :], mask[b, p, :], masked[b, p, :], 0 …].
//
// Every tensor has rows of 4·ceil(C/4) floats. Grid: flat over the floats of out. Reference: Reference.unet_input.

const SIZE: u32 = 64u;

struct Params {
  rows: u32, // B·P
  y: u32, // channels
  mask: u32,
  masked: u32,
  y_pitch: u32,
  mask_pitch: u32,
  masked_pitch: u32,
  pitch: u32,
}

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> mask: array<f32>;
@group(0) @binding(2) var<storage, read> masked: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  if (index >= params.rows * params.pitch) {
    return;
  }
  let r = index / params.pitch;
  let c = index % params.pitch;
  var value = 0.0;
  if (c < params.y) {
    value = y[r * params.y_pitch + c];
  } else if (c < params.y + params.mask) {
    value = mask[r * params.mask_pitch + c - params.y];
  } else if (c < params.y + params.mask + params.masked) {
    value = masked[r * params.masked_pitch + c - params.y - params.mask];
  }
  out[index] = value;
}
