// GroupNorm in one pass: y = x·scale + offset with scale = weight/√(var + eps), offset = bias - mean·scale, for one group of one image.
//
// A thread sums d = x - x₀ and d², x₀ its own first element: the shift keeps the variance from cancelling when the mean is
// large (E[x²] - E[x]² would). The threads' (n, mean, M2) are merged in a fixed order. TWOS, FOURS: of so many channels at once, which are
// merged too.
// x (B, P, channels), or, JOINED, its first `a` channels, and the others in `joined`; weight, bias [C];
// out [image][scale, offset][4·C4], zero in the padding. Grid: (groups, images). Reference: Reference.group_norm.

const SIZE: u32 = 64u;
const AHEAD: u32 = 8u; // loads under way at a time
const JOINED: bool = false;
const TWOS: bool = false; // the channels of a group, and of each of two tensors, are whole vec2
const FOURS: bool = false; // or whole vec4
const WIDTH: u32 = 1u; // floats of a Value
alias Value = f32;

struct Params {
  positions: u32,
  channels: u32, // of one group
  groups: u32,
  a: u32, // floats of a row of x: all of them, or those that are not in `joined`
  b: u32,
  pitch: u32, // 4·C4
  eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Value>; // sizes are floats
@group(0) @binding(1) var<storage, read> joined: array<Value>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

// include moments.wgsl

var<workgroup> part: array<vec3<f32>, SIZE>; // n, mean, M2

fn load(row: u32, c: u32) -> Value {
  if (JOINED) { // compiled
    if (c >= params.a) {
      return joined[(row * params.b + c - params.a) / WIDTH];
    }
  }
  return x[(row * params.a + c) / WIDTH];
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let c0 = group.x * params.channels;
  let row0 = group.y * params.positions;
  // On their way while everything is added up.
  let last = c0 + params.channels - 1u;
  var factor = weight[min(c0 + local, last)];
  var added = bias[min(c0 + local, last)];
  // Neighbouring threads have neighbouring channels; then they go on to other positions.
  let width = params.channels / WIDTH;
  let wide = min(width, SIZE);
  let step = SIZE / wide;
  let p0 = local / wide;
  var n = 0.0;
  var sum = Value();
  var squares = Value();
  var x0 = Value();
  if (p0 < min(step, params.positions)) {
    x0 = load(row0 + p0, c0 + local % wide * WIDTH);
    for (var c = local % wide; c < width; c += wide) {
      n += f32((params.positions - p0 + step - 1u) / step);
      for (var p = p0; p < params.positions; p += AHEAD * step) {
        var value: array<Value, AHEAD>;
        for (var i = 0u; i < AHEAD; i++) { // unroll
          value[i] = load(row0 + min(p + i * step, params.positions - 1u), c0 + c * WIDTH);
        }
        // These first by themselves: a thread of a software driver has thousands, and what a sum loses grows with its terms.
        var few = Value();
        var few_squares = Value();
        for (var i = 0u; i < AHEAD; i++) { // unroll
          let d = select(Value(), value[i] - x0, p + i * step < params.positions);
          few += d;
          few_squares += d * d;
        }
        sum += few;
        squares += few_squares;
      }
    }
  }
  let off = sum / max(n, 1.0);
  let mean = x0 + off;
  let m2 = squares - sum * off;
  if (FOURS) { // compiled
    part[local] = merged(of_two(n, mean.xy, m2.xy), of_two(n, mean.zw, m2.zw));
  } else {
    if (TWOS) { // compiled
      part[local] = of_two(n, mean, m2);
    } else {
      part[local] = vec3<f32>(n, mean, m2);
    }
  }
  for (var half = SIZE / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) {
      part[local] = merged(part[local], part[local + half]);
    }
  }
  workgroupBarrier();
  let deviation = sqrt(part[0].z / part[0].x + params.eps);
  let to = 2u * group.y * params.pitch;
  for (var c = c0 + local; c <= last; c += SIZE) {
    let scale = factor / deviation;
    out[to + c] = scale;
    out[to + params.pitch + c] = added - part[0].y * scale;
    factor = weight[min(c + SIZE, last)];
    added = bias[min(c + SIZE, last)];
  }
  let behind = params.groups * params.channels + local; // the padding of the row
  if (group.x + 1u == params.groups && behind < params.pitch) {
    out[to + behind] = 0.0;
    out[to + params.pitch + behind] = 0.0;
  }
}
