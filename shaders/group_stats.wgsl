// GroupNorm of large tensors, first of three: mean and M2 = Σ(x - mean)² of one chunk of positions of one group.
//
// A thread sums d = x - x₀ and d², x₀ its own first element: the shift keeps the variance from cancelling when the mean is
// large (E[x²] - E[x]² would). The threads' (n, mean, M2) are merged in a fixed order.
// x (B, P, C) with channel pitch 4·C4; out [image][chunk][group] (mean, M2).
// Grid: (groups, chunks of this dispatch, images of this dispatch). Reference: Reference.group_norm.

const SIZE: u32 = 64u;

struct Params {
  positions: u32, // H·W
  pitch: u32, // floats from one position to the next
  channels: u32, // of one group
  groups: u32,
  chunk: u32, // positions a chunk
  chunks: u32,
  image0: u32,
  chunk0: u32,
  origin: u32, // floats before the bound window
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

// include moments.wgsl

var<workgroup> part: array<vec3<f32>, SIZE>; // n, mean, M2

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let image = params.image0 + group.z;
  let chunk = params.chunk0 + group.y;
  let first = chunk * params.chunk;
  let count = (min(first + params.chunk, params.positions) - first) * params.channels;
  let base = (image * params.positions + first) * params.pitch + group.x * params.channels - params.origin;
  var n = 0.0;
  var sum = 0.0;
  var squares = 0.0;
  var x0 = 0.0;
  for (var e = local; e < count; e += SIZE) {
    let value = x[base + e / params.channels * params.pitch + e % params.channels];
    if (n == 0.0) {
      x0 = value;
    }
    let d = value - x0;
    n += 1.0;
    sum += d;
    squares += d * d;
  }
  let mean = sum / max(n, 1.0);
  part[local] = vec3<f32>(n, x0 + mean, squares - sum * mean);
  for (var half = SIZE / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) {
      part[local] = merged(part[local], part[local + half]);
    }
  }
  if (local == 0u) {
    out[(image * params.chunks + chunk) * params.groups + group.x] = part[0].yz;
  }
}
