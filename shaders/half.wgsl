// Numbers stored as halves: four of them are a vec2<u32>. What binds a tensor of halves reads it by `unpacked` and writes it by `packed`;
// wgsl.specialise puts both in. All arithmetic is in f32.

fn unpacked(x: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y));
}

// To the nearest half, ties to the even one, by its bits: WGSL leaves the direction of pack2x16float open, and what it makes of a value
// beyond ±65504. Here that is an infinity, which the test for finite values sees, and a NaN stays one.
fn packed(x: vec4<f32>) -> vec2<u32> {
  let bits = bitcast<vec4<u32>>(x);
  let size = bits & vec4<u32>(0x7fffffffu);
  // From 2⁻¹⁴ on: the exponent less 112, and 13 bits of the fraction rounded off.
  let normal = (size - vec4<u32>(0x37fff001u) + ((size >> vec4<u32>(13u)) & vec4<u32>(1u))) >> vec4<u32>(13u);
  // Below, a half is a multiple of 2⁻²⁴, as an f32 between ½ and 1 is.
  let small = bitcast<vec4<u32>>(bitcast<vec4<f32>>(min(size, vec4<u32>(0x38800000u))) + 0.5) - vec4<u32>(0x3f000000u);
  var half = select(small, normal, size >= vec4<u32>(0x38800000u));
  half = select(half, vec4<u32>(0x7c00u), size >= vec4<u32>(0x477ff000u)); // 65520: half way to what would follow 65504
  half = select(half, vec4<u32>(0x7e00u), size > vec4<u32>(0x7f800000u));
  half |= (bits >> vec4<u32>(16u)) & vec4<u32>(0x8000u);
  return half.xz | (half.yw << vec2<u32>(16u));
}
