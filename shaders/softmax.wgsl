// y[r, :] = exp(x[r, :] - max) / Σ over the first n of a row's 4·n4 columns; the padding becomes 0.
//
// x, y (M, N4). One workgroup a row; grid: flat over rows. Reference: Reference.attention.

const SIZE: u32 = 64u;

struct Params {
  rows: u32,
  n: u32,
  n4: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

// include common.wgsl

var<workgroup> part: array<f32, SIZE>;

// Which of a vec4's columns are not padding.
fn exists(c: u32) -> vec4<bool> {
  return vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.n);
}

fn weight(base: u32, c: u32, top: f32) -> vec4<f32> {
  return select(vec4<f32>(0.0), exp(at_least(x[base + c] - top, -80.0)), exists(c));
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let row = flat_index(group, groups, 0u, 1u);
  let base = min(row, params.rows - 1u) * params.n4; // groups past the end take part in the barriers and store nothing
  var top4 = vec4<f32>(-1e30);
  for (var c = local; c < params.n4; c += SIZE) {
    top4 = max(top4, select(vec4<f32>(-1e30), x[base + c], exists(c))); // a finite bottom: infinities are not portable
  }
  part[local] = max(max(top4.x, top4.y), max(top4.z, top4.w));
  for (var half = SIZE / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) {
      part[local] = max(part[local], part[local + half]);
    }
  }
  workgroupBarrier();
  let top = part[0];
  workgroupBarrier();
  var sum4 = vec4<f32>(0.0);
  for (var c = local; c < params.n4; c += SIZE) {
    sum4 += weight(base, c, top);
  }
  part[local] = sum4.x + sum4.y + sum4.z + sum4.w;
  for (var half = SIZE / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) {
      part[local] += part[local + half];
    }
  }
  workgroupBarrier();
  let total = part[0];
  if (row < params.rows) {
    for (var c = local; c < params.n4; c += SIZE) {
      out[base + c] = weight(base, c, top) / total;
    }
  }
}
