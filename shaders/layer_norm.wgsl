// y = (x - mean)/√(var + eps)·weight + bias over the C channels of a row; two passes, the mean first.
//
// `main` makes y; `row_variance` makes var alone, which is all that a layer norm leaves to the layer behind it: see SPREAD of dense.wgsl.
// x, y (M, C4); weight, bias [C4], zero in the padding; variance a vec4 a row, in x. LANES threads a row, SIZE/LANES rows a workgroup.
// Grid: flat over rows. Reference: Reference.layer_norm.

const LANES: u32 = 16u;
const SIZE: u32 = 64u;
const ALONE: bool = false; // a thread has its row for itself, with LANES 1: software drivers, where every barrier is a loss

struct Params {
  rows: u32,
  channels: u32,
  c4: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> variance: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

// include common.wgsl

var<workgroup> part: array<f32, SIZE>;

// The sum of `value` over the lanes of this thread's row.
fn sum_lanes(value: f32, local: u32) -> f32 {
  if (ALONE) { // compiled
    return value;
  } else {
    workgroupBarrier();
    part[local] = value;
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (local % LANES < half) {
        part[local] += part[local + half];
      }
    }
    workgroupBarrier();
    return part[local / LANES * LANES];
  }
}

// 1 for the channels that exist, 0 for the padding of the last vec4.
fn exists(c: u32) -> vec4<f32> {
  return select(vec4<f32>(0.0), vec4<f32>(1.0), vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.channels));
}

// Mean and variance of the row that begins at `base`.
fn moments(base: u32, local: u32) -> vec2<f32> {
  var sum = vec4<f32>(0.0);
  for (var c = local % LANES; c < params.c4; c += LANES) {
    sum += x[base + c];
  }
  let mean = sum_lanes(sum.x + sum.y + sum.z + sum.w, local) / f32(params.channels);
  var squares = vec4<f32>(0.0);
  for (var c = local % LANES; c < params.c4; c += LANES) {
    let d = (x[base + c] - mean) * exists(c);
    squares += d * d;
  }
  return vec2<f32>(mean, sum_lanes(squares.x + squares.y + squares.z + squares.w, local) / f32(params.channels));
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let row = flat_index(group, groups, local / LANES, SIZE / LANES);
  let base = min(row, params.rows - 1u) * params.c4; // rows past the end take part in the barriers and store nothing
  let of_row = moments(base, local);
  let factor = 1.0 / sqrt(of_row.y + params.eps);
  if (row < params.rows) {
    for (var c = local % LANES; c < params.c4; c += LANES) {
      out[base + c] = (x[base + c] - of_row.x) * factor * weight[c] + bias[c];
    }
  }
}

@compute @workgroup_size(SIZE)
fn row_variance(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let row = flat_index(group, groups, local / LANES, SIZE / LANES);
  let of_row = moments(min(row, params.rows - 1u) * params.c4, local);
  if (row < params.rows && local % LANES == 0u) {
    variance[row] = vec4<f32>(of_row.y, 0.0, 0.0, 0.0);
  }
}
