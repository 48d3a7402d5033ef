// GroupNorm, last: y = x·scale + offset, then SiLU when asked. Without SCALED, x as it is.
//
// x, y (B, P, C4); table [image][scale, offset][C4] from group_scale or group_finish. A thread does EACH vec4, which are all loaded before the
// first is stored. Lines of a tensor in parts are those of one, of two or of three: `above`, x, `below`.
// Grid: flat over the vec4 of this dispatch, SIZE·EACH a workgroup.
// Reference: Reference.group_norm.

const SCALED: bool = true;
const SILU: bool = false;
const ABOVE: bool = false;
const BELOW: bool = false;
const SIZE: u32 = 64u;
const EACH: u32 = 1u;

struct Params {
  first: u32, // index of this dispatch's first vec4, which is also the first of the bound windows
  count: u32,
  c4: u32,
  image: u32, // vec4 of one image
  begin: u32, // of them, x has those from this one on
  end: u32, // to before this one
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> above: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> below: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

// include common.wgsl

fn loaded(index: u32) -> vec4<f32> {
  if (ABOVE) { // compiled
    if (index < params.begin) {
      return above[index];
    }
  }
  if (BELOW) { // compiled
    if (index >= params.end) {
      return below[index - params.end];
    }
  }
  return x[index - params.begin];
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let begin = flat_index(group, groups, 0u, SIZE * EACH) + local;
  var y: array<vec4<f32>, EACH>;
  for (var i = 0u; i < EACH; i++) { // unroll
    let index = min(begin + i * SIZE, params.count - 1u);
    if (SCALED) { // compiled
      let c = (params.first + index) % params.c4;
      let at = (params.first + index) / params.image * 2u * params.c4 + c;
      y[i] = loaded(index) * table[at] + table[at + params.c4];
    } else {
      y[i] = loaded(index);
    }
  }
  for (var i = 0u; i < EACH; i++) { // unroll
    let index = begin + i * SIZE;
    if (index < params.count) {
      if (SILU) {
        out[index] = silu(y[i]);
      } else {
        out[index] = y[i];
      }
    }
  }
}
