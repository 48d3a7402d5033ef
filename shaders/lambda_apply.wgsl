// y[n, h, v] = Σ_k Q[n, h, k]·λ[k, v] + Σ_d L[n, h, d]·V[n + d, v] + residual[n, h·v_dim + v]
//
// L[n, h, d] = Σ_k Q[n, h, k]·Wpos[k, d] are the positional logits, made by gemm: forming Q·Wpos first needs 225 numbers a
// head and position instead of k·v (λp), 2.6 to 10 times fewer operations. Each of the 15 rows of the window is padded to
// 16 logits (the last is zero), so that four neighbours in x are one vec4 of L.
// qkv rows hold [heads·K4 | K4 | V4]; lambda [image][4·K4][V4]; logits (B·P, heads, 60); out (B, P, pitch floats).
// out and residual are read as floats: a head's first channel need not be a multiple of four.
// Grid: flat over (image, y, x, V4); a thread holds all heads of four channels. Reference: Reference.self_lambda.

const HEADS: u32 = 8u;
const WINDOW: u32 = 15u;
const SIZE: u32 = 64u;

struct Params {
  images: u32,
  height: u32,
  width: u32,
  qkv_pitch: u32, // vec4 of a row of qkv
  k4: u32,
  v4: u32,
  v_dim: u32, // channels of a head
  pitch: u32, // floats of a row of out
}

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> lambda: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> logits: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let v = index % params.v4;
  let row = index / params.v4; // image·P + y·width + x
  let positions = params.height * params.width;
  let image = row / positions;
  if (image >= params.images) {
    return;
  }
  let x = i32(row % params.width);
  let y = i32(row / params.width % params.height);
  let reach = i32(WINDOW / 2u);
  let value0 = (HEADS + 1u) * params.k4 + v; // where V[v] lies in a row of qkv
  var acc: array<vec4<f32>, HEADS>;
  for (var dy = 0; dy < i32(WINDOW); dy++) {
    let sy = y + dy - reach;
    if (sy < 0 || sy >= i32(params.height)) {
      continue;
    }
    let line = image * positions + u32(sy) * params.width;
    for (var d = 0; d < i32(WINDOW); d += 4) {
      var value: array<vec4<f32>, 4>;
      for (var i = 0u; i < 4u; i++) { // unroll
        let sx = x + d + i32(i) - reach;
        let inside = sx >= 0 && sx < i32(params.width);
        value[i] = select(vec4<f32>(0.0), qkv[(line + u32(clamp(sx, 0, i32(params.width) - 1))) * params.qkv_pitch + value0], inside);
      }
      let at = row * HEADS * (WINDOW + 1u) * WINDOW / 4u + u32(dy * 4 + d / 4);
      for (var h = 0u; h < HEADS; h++) { // unroll
        let l = logits[at + h * ((WINDOW + 1u) * WINDOW / 4u)];
        acc[h] += l.x * value[0] + l.y * value[1] + l.z * value[2] + l.w * value[3];
      }
    }
  }
  for (var k = 0u; k < params.k4; k++) {
    let from_lambda = (image * params.k4 + k) * 4u * params.v4 + v;
    let l0 = lambda[from_lambda];
    let l1 = lambda[from_lambda + params.v4];
    let l2 = lambda[from_lambda + 2u * params.v4];
    let l3 = lambda[from_lambda + 3u * params.v4];
    for (var h = 0u; h < HEADS; h++) { // unroll
      let q = qkv[row * params.qkv_pitch + h * params.k4 + k];
      acc[h] += q.x * l0 + q.y * l1 + q.z * l2 + q.w * l3;
    }
  }
  let channels = min(params.v_dim - 4u * v, 4u);
  for (var h = 0u; h < HEADS; h++) { // unroll
    let to = row * params.pitch + h * params.v_dim + 4u * v;
    for (var i = 0u; i < channels; i++) {
      out[to + i] = acc[h][i] + residual[to + i];
    }
  }
  if (v == 0u) { // the padding of the row
    for (var c = HEADS * params.v_dim; c < params.pitch; c++) {
      out[row * params.pitch + c] = 0.0;
    }
  }
}
