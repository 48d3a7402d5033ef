// GroupNorm in one pass: y = x·scale + offset with scale = weight/√(var + eps), offset = bias - mean·scale, for one group of one image.
//
// A thread sums d = x - x₀ and d², x₀ its own first element: the shift keeps the variance from cancelling when the mean is
// large (E[x²] - E[x]² would). The threads' (n, mean, M2) are merged in a fixed order.
// x (B, P, channels), or, JOINED, its first `a` channels, and the others in `joined`; weight, bias [C];
// out [image][scale, offset][4·C4], zero in the padding. Grid: (groups, images). Reference: Reference.group_norm.

const SIZE: u32 = 64u;
const AHEAD: u32 = 8u; // loads under way at a time
const JOINED: bool = false;

struct Params {
  positions: u32,
  channels: u32, // of one group
  groups: u32,
  a: u32, // floats of a row of x: all of them, or those that are not in `joined`
  b: u32,
  pitch: u32, // 4·C4
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> joined: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

// include moments.wgsl

var<workgroup> part: array<vec3<f32>, SIZE>; // n, mean, M2

fn load(row: u32, c: u32) -> f32 {
  if (JOINED) { // compiled
    if (c >= params.a) {
      return joined[row * params.b + c - params.a];
    }
  }
  return x[row * params.a + c];
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let c0 = group.x * params.channels;
  let row0 = group.y * params.positions;
  // Neighbouring threads have neighbouring channels; then they go on to other positions.
  let wide = min(params.channels, SIZE);
  let step = SIZE / wide;
  let p0 = local / wide;
  var n = 0.0;
  var sum = 0.0;
  var squares = 0.0;
  var x0 = 0.0;
  if (p0 < min(step, params.positions)) {
    x0 = load(row0 + p0, c0 + local % wide);
    for (var c = local % wide; c < params.channels; c += wide) {
      n += f32((params.positions - p0 + step - 1u) / step);
      for (var p = p0; p < params.positions; p += AHEAD * step) {
        var value: array<f32, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) { // unroll
          value[i] = load(row0 + min(p + i * step, params.positions - 1u), c0 + c);
        }
        // These first by themselves: a thread of a software driver has thousands, and what a sum loses grows with its terms.
        var few = vec2<f32>(0.0);
        for (var i = 0u; i < AHEAD; i++) { // unroll
          let d = select(0.0, value[i] - x0, p + i * step < params.positions);
          few += vec2<f32>(d, d * d);
        }
        sum += few.x;
        squares += few.y;
      }
    }
  }
  let mean = sum / max(n, 1.0);
  part[local] = vec3<f32>(n, x0 + mean, squares - sum * mean);
  for (var half = SIZE / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) {
      part[local] = merged(part[local], part[local + half]);
    }
  }
  workgroupBarrier();
  let deviation = sqrt(part[0].z / part[0].x + params.eps);
  let to = 2u * group.y * params.pitch;
  for (var c = c0 + local; c < c0 + params.channels; c += SIZE) {
    let scale = weight[c] / deviation;
    out[to + c] = scale;
    out[to + params.pitch + c] = bias[c] - part[0].y * scale;
  }
  let behind = params.groups * params.channels + local; // the padding of the row
  if (group.x + 1u == params.groups && behind < params.pitch) {
    out[to + behind] = 0.0;
    out[to + params.pitch + behind] = 0.0;
  }
}
