// What kernels on matrix units share beside a dialect. What no half can be, and sums that are no numbers, become NaNs.
// `params.rows` is of the file that includes it: a number that no compiler knows.

// Numbers of a row that are staged at a time.
struct Eight {
  left: vec4<f32>,
  right: vec4<f32>,
}

// A NaN for what no half can hold, from 65520 on: what a conversion would make of it may be anything.
fn bounded(v: vec4<f32>) -> vec4<f32> {
  let none = vec4<f32>(bitcast<f32>(params.rows | 0x7fc00000u));
  return select(v, none, (bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu)) >= vec4<u32>(0x477ff000u));
}

// A NaN for an infinity, and for all where the units are not what they were taken for.
fn checked(v: vec4<f32>, is_sound: bool) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(v);
  let none = bitcast<vec4<f32>>(bits | vec4<u32>(0x7fc00000u));
  return select(none, v, ((bits & vec4<u32>(0x7f800000u)) < vec4<u32>(0x7f800000u)) & vec4<bool>(is_sound));
}
