// ε = u + guidance·(c - u), x0 = (y - √(1-ā_t)·ε)/√ā_t, next = √ā_p·x0 + √(1-ā_p)·ε; and a flag when next is not finite.
//
// eps holds u then c (GUIDED), or ε itself. coefficients[step] = (√ā_t, √(1-ā_t), √ā_p, √(1-ā_p)), step = state[0].
// Everything in vec4, `count` of them. flags[step] becomes 1; the test reads bits, because compilers may assume that no value
// is NaN. Grid: flat. Reference: Reference.guided_ddim.

const GUIDED: bool = true;
const SIZE: u32 = 64u;

struct Params {
  count: u32,
  guidance: f32,
}

@group(0) @binding(0) var<storage, read> eps: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> coefficients: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> state: array<u32>;
@group(0) @binding(4) var<storage, read_write> next: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> x0: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> flags: array<atomic<u32>>;
@group(0) @binding(7) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  if (index >= params.count) {
    return;
  }
  let a = coefficients[state[0]];
  var e = eps[index];
  if (GUIDED) {
    e += params.guidance * (eps[params.count + index] - e);
  }
  let x = (y[index] - a.y * e) / a.x;
  let v = a.z * x + a.w * e;
  x0[index] = x;
  next[index] = v;
  if (any((bitcast<vec4<u32>>(v) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u))) {
    atomicStore(&flags[state[0]], 1u);
  }
}
