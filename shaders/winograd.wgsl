// Winograd's F(4×4, 3×3), for a 3×3 of stride 1: 36 products for a tile of 4×4 outputs instead of 144.
//
// `to_filters` makes (G·g·Gᵀ)ᵢⱼ of the 3×3 weights g, matrix 6i+j: kept, they would be four times the weights. `to_points` makes
// (Bᵀ·d·B)ᵢⱼ of the 6×6 inputs d under a tile, or of a group norm of them; the products of all 36 matrices are one dispatch of gemm.wgsl
// (ROWS, z over matrices); and `from_points` makes the sum of dense.wgsl of Aᵀ·M·A.
// Grid: x over K4 or N4, y over tiles, which are the rows of both; `to_filters`: over N4 and rows of W.
// Reference: those of dense.wgsl.

const TO_POINTS: u32 = 3u; // modes, beside those of dense.wgsl
const FROM_POINTS: u32 = 4u;
const TO_FILTERS: u32 = 5u;
const WGX: u32 = 8u;
const WGY: u32 = 8u;

// include dense.wgsl

// The polynomials behind the transforms are compared at 0, ±P, ±Q and ∞. See cpu/winograd.py, which has the same, for why.
const P: f32 = 0.625;
const Q: f32 = 1.5;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;
const SIDE: u32 = 6u;
const POINTS: u32 = 36u;

// Bᵀ·d of a line of six.
fn to_line(d: array<vec4<f32>, SIDE>) -> array<vec4<f32>, SIDE> {
  let even_p = d[4] - Q2 * d[2];
  let odd_p = P * (d[3] - Q2 * d[1]);
  let even_q = d[4] - P2 * d[2];
  let odd_q = Q * (d[3] - P2 * d[1]);
  return array<vec4<f32>, SIDE>(
    P2 * Q2 * d[0] - (P2 + Q2) * d[2] + d[4],
    even_p + odd_p,
    even_p - odd_p,
    even_q + odd_q,
    even_q - odd_q,
    P2 * Q2 * d[1] - (P2 + Q2) * d[3] + d[5],
  );
}

// Aᵀ·m.
fn from_line(m: array<vec4<f32>, SIDE>) -> array<vec4<f32>, 4> {
  let even_p = m[1] + m[2];
  let odd_p = P * (m[1] - m[2]);
  let even_q = m[3] + m[4];
  let odd_q = Q * (m[3] - m[4]);
  return array<vec4<f32>, 4>(m[0] + even_p + even_q, odd_p + odd_q, P2 * even_p + Q2 * even_q, P2 * odd_p + Q2 * odd_q + m[5]);
}

// G·g.
fn filter_line(g: array<vec4<f32>, 3>) -> array<vec4<f32>, SIDE> {
  let even_p = (g[0] + P2 * g[2]) / (2.0 * P2 * (P2 - Q2));
  let odd_p = P * g[1] / (2.0 * P2 * (P2 - Q2));
  let even_q = (g[0] + Q2 * g[2]) / (2.0 * Q2 * (Q2 - P2));
  let odd_q = Q * g[1] / (2.0 * Q2 * (Q2 - P2));
  return array<vec4<f32>, SIDE>(g[0] / (P2 * Q2), even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, g[2]);
}

@compute @workgroup_size(WGX, WGY)
fn to_filters(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let k = group.y * WGY + local.y;
  let rows = 4u * params.k4;
  if (c >= params.n4 || k >= rows) {
    return;
  }
  var turned: array<array<vec4<f32>, 3>, SIDE>;
  for (var x = 0u; x < 3u; x++) { // unroll
    var g: array<vec4<f32>, 3>;
    for (var y = 0u; y < 3u; y++) { // unroll
      g[y] = w[((3u * y + x) * rows + k) * params.n4 + c];
    }
    let made = filter_line(g);
    for (var y = 0u; y < SIDE; y++) { // unroll
      turned[y][x] = made[y];
    }
  }
  for (var y = 0u; y < SIDE; y++) { // unroll
    let made = filter_line(turned[y]);
    for (var x = 0u; x < SIDE; x++) { // unroll
      out[((SIDE * y + x) * rows + k) * params.n4 + c] = made[x];
    }
  }
}

@compute @workgroup_size(WGX, WGY)
fn to_points(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let r = params.row0 + group.y * WGY + local.y;
  if (c >= params.k4 || r >= params.rows) {
    return;
  }
  let window = locate(r, 0u);
  var scale = vec4<f32>(1.0);
  var offset = vec4<f32>(0.0);
  if (NORMED) { // compiled
    let at = r / params.out_width / params.out_height * 2u * params.k4 + c;
    scale = norm[at];
    offset = norm[at + params.k4];
  }
  var turned: array<array<vec4<f32>, SIDE>, SIDE>;
  for (var i = 0u; i < SIDE; i++) { // unroll
    var d: array<vec4<f32>, SIDE>;
    for (var y = 0u; y < SIDE; y++) { // unroll
      let index = tap_index(window, SIDE * y + i);
      var x = a[u32(max(index, 0)) + c];
      if (NORMED) { // compiled
        x = x * scale + offset;
        x = select(x, silu(x), NORM_SILU);
      }
      d[y] = select(vec4<f32>(0.0), x, index >= 0); // what is outside is zero behind the norm
    }
    let made = to_line(d);
    for (var y = 0u; y < SIDE; y++) { // unroll
      turned[y][i] = made[y];
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
  let across = (params.out_width + 3u) / 4u;
  let down = (params.out_height + 3u) / 4u;
  let x0 = 4u * (r % across);
  let y0 = 4u * (r / across % down);
  let image = r / across / down;
  var turned: array<array<vec4<f32>, SIDE>, 4>;
  for (var x = 0u; x < SIDE; x++) { // unroll
    var m: array<vec4<f32>, SIDE>;
    for (var y = 0u; y < SIDE; y++) { // unroll
      m[y] = a[((SIDE * y + x) * params.plane + r - params.row0) * params.n4 + c];
    }
    let made = from_line(m);
    for (var y = 0u; y < 4u; y++) { // unroll
      turned[y][x] = made[y];
    }
  }
  for (var y = 0u; y < 4u; y++) { // unroll
    if (y0 + y < params.out_height) {
      let row = (image * params.out_height + y0 + y) * params.out_width + x0;
      let made = from_line(turned[y]);
      for (var x = 0u; x < 4u; x++) { // unroll
        if (x0 + x < params.out_width) {
          put(row + x, c, made[x]);
        }
      }
    }
  }
}
