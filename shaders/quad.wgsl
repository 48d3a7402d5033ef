// Four numbers under one exponent, in a vec2<u32>: the largest of them has 13 bits, and the others what is left of those below it.
//
//   word 0:  bits 0–13 the first, 14–27 the second, 28–31 the lower half of the exponent
//   word 1:  bits 0–13 the third, 14–27 the fourth, 28–31 the upper half
//
// A number is (bits - 8191)·2^(exponent - 139); all of its bits set say that it is none. The exponent is that of the largest number, as
// float32 has it, and 13 at least: so nothing overflows, and none is off by more than 2⁻¹³ of the largest, or 2⁻¹²⁷. wgsl.specialise puts
// both functions in, as it does with half.wgsl's. The same in NumPy: backends/webgpu/quads.py.

fn of_quad(x: vec2<u32>) -> vec4<f32> {
  let bits = (x.xxyy >> vec4<u32>(0u, 14u, 0u, 14u)) & vec4<u32>(0x3fffu);
  let exponent = (x.x >> 28u) | ((x.y >> 28u) << 4u);
  let y = (vec4<f32>(bits) - 8191.0) * bitcast<f32>((exponent - 12u) << 23u);
  // As bits: a compiler may take it that a number is one.
  return bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(y), vec4<u32>(0x7fc00000u), bits == vec4<u32>(0x3fffu)));
}

fn as_quad(x: vec4<f32>) -> vec2<u32> {
  let exponents = (bitcast<vec4<u32>>(x) >> vec4<u32>(23u)) & vec4<u32>(255u);
  let is_number = exponents < vec4<u32>(255u);
  let found = select(vec4<u32>(0u), exponents, is_number);
  let exponent = max(max(max(found.x, found.y), max(found.z, found.w)), 13u); // below, 2^(exponent - 139) would be no normal number
  let whole = round(select(vec4<f32>(0.0), x, is_number) * bitcast<f32>((266u - exponent) << 23u));
  let bits = select(vec4<u32>(0x3fffu), vec4<u32>(clamp(whole, vec4<f32>(-8191.0), vec4<f32>(8191.0)) + 8191.0), is_number);
  let pairs = bits.xz | (bits.yw << vec2<u32>(14u));
  return pairs | (vec2<u32>(exponent & 15u, exponent >> 4u) << vec2<u32>(28u));
}
