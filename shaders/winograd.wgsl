// Winograd's F(2×2, 3×3), for a 3×3 of stride 1: 16 products for a tile of 2×2 outputs instead of 36.
//
// `to_points` makes (Bᵀ·d·B)ᵢⱼ of the 4×4 inputs d under a tile, matrix 4i+j, or of a group norm of them; the products of all 16 matrices are
// one dispatch of gemm.wgsl (ROWS, z over matrices) with G·g·Gᵀ as W; and `from_points` makes the sum of dense.wgsl of Aᵀ·M·A.
// Grid: x over K4 or N4, y over tiles, which are the rows of both.
// `filter_points` makes G·g·Gᵀ of the nine taps of a convolution's weights, K rows of N4 each. Grid: x over N4, y over K.
// Reference: those of dense.wgsl.

const TO_POINTS: u32 = 3u; // modes, beside those of dense.wgsl
const FROM_POINTS: u32 = 4u;
const FILTER_POINTS: u32 = 5u;
const WGX: u32 = 8u;
const WGY: u32 = 8u;

// include dense.wgsl

const POINTS: u32 = 16u;

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
  var d: array<vec4<f32>, POINTS>;
  for (var t = 0u; t < POINTS; t++) { // unroll
    let index = tap_index(window, t);
    var x = a[u32(max(index, 0)) + c];
    if (NORMED) { // compiled
      x = x * scale + offset;
      x = select(x, silu(x), NORM_SILU);
    }
    d[t] = select(vec4<f32>(0.0), x, index >= 0); // what is outside is zero behind the norm
  }
  for (var x = 0u; x < 4u; x++) { // unroll
    let p = d[4u + x];
    let q = d[8u + x];
    d[x] -= q;
    d[4u + x] = p + q;
    d[8u + x] = q - p;
    d[12u + x] = p - d[12u + x];
  }
  for (var y = 0u; y < 4u; y++) { // unroll
    let p = d[4u * y + 1u];
    let q = d[4u * y + 2u];
    d[4u * y] -= q;
    d[4u * y + 1u] = p + q;
    d[4u * y + 2u] = q - p;
    d[4u * y + 3u] = p - d[4u * y + 3u];
  }
  for (var t = 0u; t < POINTS; t++) { // unroll
    out[(t * params.plane + r - params.row0) * params.k4 + c] = d[t];
  }
}

@compute @workgroup_size(WGX, WGY)
fn filter_points(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let r = group.y * WGY + local.y;
  if (c >= params.n4 || r >= params.rows) {
    return;
  }
  let at = r * params.n4 + c;
  let plane = params.rows * params.n4;
  var g: array<vec4<f32>, 12>; // four lines of three
  for (var x = 0u; x < 3u; x++) { // unroll
    let top = w[x * plane + at];
    let middle = 0.5 * w[(3u + x) * plane + at];
    let bottom = w[(6u + x) * plane + at];
    let ends = 0.5 * (top + bottom);
    g[x] = top;
    g[3u + x] = ends + middle;
    g[6u + x] = ends - middle;
    g[9u + x] = bottom;
  }
  for (var y = 0u; y < 4u; y++) { // unroll
    let middle = 0.5 * g[3u * y + 1u];
    let ends = 0.5 * (g[3u * y] + g[3u * y + 2u]);
    out[4u * y * plane + at] = g[3u * y];
    out[(4u * y + 1u) * plane + at] = ends + middle;
    out[(4u * y + 2u) * plane + at] = ends - middle;
    out[(4u * y + 3u) * plane + at] = g[3u * y + 2u];
  }
}

@compute @workgroup_size(WGX, WGY)
fn from_points(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let r = params.row0 + group.y * WGY + local.y;
  if (c >= params.n4 || r >= params.rows) {
    return;
  }
  var m: array<vec4<f32>, POINTS>;
  for (var t = 0u; t < POINTS; t++) { // unroll
    m[t] = a[(t * params.plane + r - params.row0) * params.n4 + c];
  }
  let across = (params.out_width + 1u) / 2u;
  let down = (params.out_height + 1u) / 2u;
  let x0 = 2u * (r % across);
  let y0 = 2u * (r / across % down);
  let image = r / across / down;
  for (var x = 0u; x < 4u; x++) { // unroll
    let p = m[4u + x];
    let q = m[8u + x];
    m[x] += p + q;
    m[4u + x] = p - q - m[12u + x];
  }
  for (var y = 0u; y < 2u; y++) { // unroll
    if (y0 + y < params.out_height) {
      let row = (image * params.out_height + y0 + y) * params.out_width + x0;
      put(row, c, m[4u * y] + m[4u * y + 1u] + m[4u * y + 2u]);
      if (x0 + 1u < params.out_width) {
        put(row + 1u, c, m[4u * y + 1u] - m[4u * y + 2u] - m[4u * y + 3u]);
      }
    }
  }
}
