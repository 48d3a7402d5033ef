// Shared by every kernel that includes it.

// By its bits: a driver may take for granted that there are no NaNs, and then no comparison of floats finds one.
fn is_nan(x: vec4<f32>) -> vec4<bool> {
  return (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
}

// max(x, low), but a NaN stays one: max may drop it, and then a broken weight makes a picture instead of an error.
fn at_least(x: vec4<f32>, low: f32) -> vec4<f32> {
  return select(max(x, vec4<f32>(low)), x, is_nan(x));
}

// x·σ(x). The clamp keeps exp finite: below -80 the result is 0 to the last bit that matters.
fn silu(x: vec4<f32>) -> vec4<f32> {
  return x / (1.0 + exp(-at_least(x, -80.0)));
}

// The index of an invocation in a grid of 1-D workgroups that was folded into two dimensions to stay below 65 535 groups.
fn flat_index(group: vec3<u32>, groups: vec3<u32>, local: u32, size: u32) -> u32 {
  return (group.y * groups.x + group.x) * size + local;
}
