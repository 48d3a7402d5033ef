// variance[r] = mean of (x - mean)² over the C channels of row r: all that a layer norm leaves to the layer behind it; see gemm's SPREAD.
//
// x (M, C4); out a vec4 a row, the variance in x. Two passes, the mean first. LANES threads a row, SIZE/LANES rows a workgroup.
// Grid: flat over rows. Reference: Reference.layer_norm.

const LANES: u32 = 16u;
const SIZE: u32 = 64u;

struct Params {
  rows: u32,
  channels: u32,
  c4: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

// include common.wgsl

var<workgroup> part: array<f32, SIZE>;

// The sum of `value` over the lanes of this thread's row.
fn sum_lanes(value: f32, local: u32) -> f32 {
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

// 1 for the channels that exist, 0 for the padding of the last vec4.
fn exists(c: u32) -> vec4<f32> {
  return select(vec4<f32>(0.0), vec4<f32>(1.0), vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.channels));
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let row = flat_index(group, groups, local / LANES, SIZE / LANES);
  let base = min(row, params.rows - 1u) * params.c4; // rows past the end take part in the barriers and store nothing
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
  let variance = sum_lanes(squares.x + squares.y + squares.z + squares.w, local) / f32(params.channels);
  if (row < params.rows && local % LANES == 0u) {
    out[row] = vec4<f32>(variance, 0.0, 0.0, 0.0);
  }
}
