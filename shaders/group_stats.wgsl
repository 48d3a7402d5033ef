// GroupNorm of large tensors, first of three: mean and M2 = Σ(x - mean)² of one chunk of positions of one group.
//
// A thread sums d = x - x₀ and d², x₀ its own first element: the shift keeps the variance from cancelling when the mean is
// large (E[x²] - E[x]² would). The threads' (n, mean, M2) are merged in a fixed order. FOURS: of four channels at once, which are merged too.
// x (B, P, C) with channel pitch 4·C4; out [image][chunk][group] (mean, M2).
// Grid: (groups, chunks of this dispatch, images of this dispatch). Reference: Reference.group_norm.

const SIZE: u32 = 64u;
const AHEAD: u32 = 1u; // loads under way at a time
const FOURS: bool = false; // the channels of a group are whole vec4
const WIDTH: u32 = 1u; // floats of a Value
alias Value = f32;

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

@group(0) @binding(0) var<storage, read> x: array<Value>; // sizes below are floats
@group(0) @binding(1) var<storage, read_write> out: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

// include moments.wgsl

var<workgroup> part: array<vec3<f32>, SIZE>; // n, mean, M2

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let image = params.image0 + group.z;
  let chunk = params.chunk0 + group.y;
  let first = chunk * params.chunk;
  let width = params.channels / WIDTH;
  let count = (min(first + params.chunk, params.positions) - first) * width;
  let base = ((image * params.positions + first) * params.pitch + group.x * params.channels - params.origin) / WIDTH;
  var n = 0.0;
  var sum = Value();
  var squares = Value();
  var x0 = Value();
  if (local < count) {
    x0 = x[base + local / width * (params.pitch / WIDTH) + local % width];
  }
  for (var begin = local; begin < count; begin += AHEAD * SIZE) {
    var value: array<Value, AHEAD>;
    for (var i = 0u; i < AHEAD; i++) { // unroll
      let e = min(begin + i * SIZE, count - 1u);
      value[i] = x[base + e / width * (params.pitch / WIDTH) + e % width];
    }
    for (var i = 0u; i < AHEAD; i++) { // unroll
      let is_there = begin + i * SIZE < count;
      let d = select(Value(), value[i] - x0, is_there);
      n += select(0.0, 1.0, is_there);
      sum += d;
      squares += d * d;
    }
  }
  let off = sum / max(n, 1.0);
  let mean = x0 + off;
  let m2 = squares - sum * off;
  if (FOURS) { // compiled
    part[local] = merged(of_two(n, mean.xy, m2.xy), of_two(n, mean.zw, m2.zw));
  } else {
    part[local] = vec3<f32>(n, mean, m2);
  }
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
