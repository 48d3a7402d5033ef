// A 3×3 behind nearest×2 as nine products at every pixel of the small image, where its four phases are sixteen.
//
// On one axis, with taps a, b, c: under output 2y lie x[y-1], x[y], x[y], which make a·(x[y-1] - x[y]) + (a+b+c)·x[y]; under 2y+1 lie x[y],
// x[y], x[y+1], which make (a+b+c)·x[y] + c·(x[y+1] - x[y]). On two axes there are nine of these products, matrix 3·i + j.
//
// `to_points` makes the inputs and their differences; the products of all nine matrices are one dispatch of a kernel of dense layers (ROWS, z
// over matrices); and `from_points` makes the sum of dense.wgsl of what they add up to. Grid: x over K4 or N4, y over pixels of the small
// image, which are the rows of both.
// Reference: upsample_conv3x3.

const TO_POINTS: u32 = 3u; // modes, beside those of dense.wgsl
const FROM_POINTS: u32 = 4u;
const WGX: u32 = 8u;
const WGY: u32 = 8u;

// include dense.wgsl

const SIDE: u32 = 3u; // inputs that an output's filter reaches, products on an axis
const POINTS: u32 = 9u;

fn to_line(d: array<vec4<f32>, SIDE>) -> array<vec4<f32>, SIDE> {
  return array<vec4<f32>, SIDE>(d[0] - d[1], d[1], d[2] - d[1]);
}

fn from_line(m: array<vec4<f32>, SIDE>) -> array<vec4<f32>, 2> {
  return array<vec4<f32>, 2>(m[0] + m[1], m[1] + m[2]);
}

@compute @workgroup_size(WGX, WGY)
fn to_points(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let r = params.row0 + group.y * WGY + local.y;
  if (c >= params.k4 || r >= params.rows) {
    return;
  }
  let window = locate(r, 0u);
  var turned: array<array<vec4<f32>, SIDE>, SIDE>;
  for (var x = 0u; x < SIDE; x++) { // unroll
    var d: array<vec4<f32>, SIDE>;
    for (var y = 0u; y < SIDE; y++) { // unroll
      d[y] = load_a(tap_index(window, SIDE * y + x), c);
    }
    let made = to_line(d);
    for (var y = 0u; y < SIDE; y++) { // unroll
      turned[y][x] = made[y];
    }
  }
  for (var y = 0u; y < SIDE; y++) { // unroll
    let made = to_line(turned[y]);
    for (var x = 0u; x < SIDE; x++) { // unroll
      out[((SIDE * y + x) * params.plane + r - params.row0) * params.k4 + c] = made[x];
    }
  }
}

@compute @workgroup_size(WGX, WGY)
fn from_points(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let r = params.row0 + group.y * WGY + local.y;
  if (c >= params.n4 || r >= params.rows) {
    return;
  }
  var turned: array<array<vec4<f32>, SIDE>, 2>;
  for (var x = 0u; x < SIDE; x++) { // unroll
    var m: array<vec4<f32>, SIDE>;
    for (var y = 0u; y < SIDE; y++) { // unroll
      m[y] = a[((SIDE * y + x) * params.plane + r - params.row0) * params.n4 + c];
    }
    let made = from_line(m);
    for (var y = 0u; y < 2u; y++) { // unroll
      turned[y][x] = made[y];
    }
  }
  let left = 2u * (r % params.out_width);
  let top = 2u * (r / params.out_width); // image·2·height + 2·y: the images stay apart by themselves
  for (var y = 0u; y < 2u; y++) { // unroll
    let made = from_line(turned[y]);
    for (var x = 0u; x < 2u; x++) { // unroll
      put((top + y) * 2u * params.out_width + left + x, c, made[x]);
    }
  }
}
