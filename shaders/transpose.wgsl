// out[c, r] = x[r, offset + c]: a block of columns of a matrix as rows (the keys of the VAE's attention).
//
// x rows of `pitch` floats; out (columns, 4·ceil(rows/4)), zero in the padding. Grid: flat over out. Reference: NumPy's .T.

const SIZE: u32 = 64u;

struct Params {
  rows: u32,
  columns: u32,
  pitch: u32,
  offset: u32,
  out_pitch: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let r = index % params.out_pitch;
  let c = index / params.out_pitch;
  if (c >= params.columns) {
    return;
  }
  var value = 0.0;
  if (r < params.rows) {
    value = x[r * params.pitch + params.offset + c];
  }
  out[index] = value;
}
