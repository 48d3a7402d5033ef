// y[n, h, v] = Σ_k Q[n, h, k]·λ[k, v] + Σ_d L[n, h, d]·V[n + d, v] + residual[n, h·v_dim + v]
//
// L[n, h, d] = Σ_k Q[n, h, k]·Wpos[k, d] are the positional logits, made by gemm: forming Q·Wpos first needs 225 numbers a
// head and position instead of k·v (λp), 2.6 to 10 times fewer operations. Each of the 15 rows of the window is padded to
// 16 logits (the last is zero), so that four neighbours in x are one vec4 of L. Where a thread has all channels of its position,
// it makes them itself, of its queries and Wpos (`filters`): to write and to read them costs more than to make them.
// qkv rows hold [heads·K4 | K4 | V4]; lambda [image][4·K4][V4]; logits (B·P, heads, 60) or filters [4·K4][60]; out (B, P, pitch floats).
// out and residual are read as floats: a head's first channel need not be a multiple of four.
// Grid: flat over (image, y, x, V4 / TV4); a thread holds all heads of 4·TV4 channels, for which it loads a logit once.
// Reference: Reference.self_lambda.

const HEADS: u32 = 8u;
const TV4: u32 = 1u; // channels of a thread, in vec4; it divides V4
const ACC: u32 = HEADS * TV4;
const VALUES: u32 = 4u * TV4;
const LOGITS: bool = true; // they are in memory
const Q4: u32 = 1u; // else: vec4 of a query
const QUERIES: u32 = HEADS * Q4;
const ROWS: u32 = 4u * Q4; // of filters
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
@group(0) @binding(3) var<storage, read> filters: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

// include common.wgsl

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let index = flat_index(group, groups, local, SIZE);
  let threads = params.v4 / TV4; // of a position
  let v = index % threads * TV4;
  let row = index / threads; // image·P + y·width + x
  let positions = params.height * params.width;
  let image = row / positions;
  if (image >= params.images) {
    return;
  }
  let x = i32(row % params.width);
  let y = i32(row / params.width % params.height);
  let reach = i32(WINDOW / 2u);
  let value0 = (HEADS + 1u) * params.k4 + v; // where V[v] lies in a row of qkv
  var acc: array<vec4<f32>, ACC>;
  var query: array<vec4<f32>, QUERIES>;
  if (!LOGITS) { // compiled
    for (var i = 0u; i < QUERIES; i++) { // unroll
      query[i] = qkv[row * params.qkv_pitch + i];
    }
  }
  for (var dy = 0; dy < i32(WINDOW); dy++) {
    let sy = y + dy - reach;
    if (sy < 0 || sy >= i32(params.height)) {
      continue;
    }
    let line = image * positions + u32(sy) * params.width;
    for (var d = 0; d < i32(WINDOW); d += 4) {
      var value: array<vec4<f32>, VALUES>;
      for (var i = 0u; i < 4u; i++) { // unroll
        let sx = x + d + i32(i) - reach;
        let inside = sx >= 0 && sx < i32(params.width);
        let from_value = (line + u32(clamp(sx, 0, i32(params.width) - 1))) * params.qkv_pitch + value0;
        for (var j = 0u; j < TV4; j++) { // unroll
          value[i * TV4 + j] = select(vec4<f32>(0.0), qkv[from_value + j], inside);
        }
      }
      let four = u32(dy * 4 + d / 4);
      var weight: array<vec4<f32>, ROWS>;
      if (!LOGITS) { // compiled
        for (var i = 0u; i < ROWS; i++) { // unroll
          weight[i] = filters[i * ((WINDOW + 1u) * WINDOW / 4u) + four];
        }
      }
      for (var h = 0u; h < HEADS; h++) { // unroll
        var l = vec4<f32>(0.0);
        if (LOGITS) { // compiled
          l = logits[(row * HEADS + h) * ((WINDOW + 1u) * WINDOW / 4u) + four];
        } else {
          for (var k = 0u; k < Q4; k++) { // unroll
            let q = query[h * Q4 + k];
            l += q.x * weight[4u * k] + q.y * weight[4u * k + 1u] + q.z * weight[4u * k + 2u] + q.w * weight[4u * k + 3u];
          }
        }
        for (var j = 0u; j < TV4; j++) { // unroll
          acc[h * TV4 + j] += l.x * value[j] + l.y * value[TV4 + j] + l.z * value[2u * TV4 + j] + l.w * value[3u * TV4 + j];
        }
      }
    }
  }
  for (var k = 0u; k < params.k4; k++) {
    let from_lambda = (image * params.k4 + k) * 4u * params.v4 + v;
    var l: array<vec4<f32>, VALUES>;
    for (var i = 0u; i < 4u; i++) { // unroll
      for (var j = 0u; j < TV4; j++) { // unroll
        l[i * TV4 + j] = lambda[from_lambda + i * params.v4 + j];
      }
    }
    for (var h = 0u; h < HEADS; h++) { // unroll
      let q = qkv[row * params.qkv_pitch + h * params.k4 + k];
      for (var j = 0u; j < TV4; j++) { // unroll
        acc[h * TV4 + j] += q.x * l[j] + q.y * l[TV4 + j] + q.z * l[2u * TV4 + j] + q.w * l[3u * TV4 + j];
      }
    }
  }
  for (var j = 0u; j < TV4; j++) { // unroll
    let channels = min(params.v_dim - 4u * (v + j), 4u);
    for (var h = 0u; h < HEADS; h++) { // unroll
      let to = row * params.pitch + h * params.v_dim + 4u * (v + j);
      for (var i = 0u; i < channels; i++) {
        out[to + i] = acc[h * TV4 + j][i] + residual[to + i];
      }
    }
  }
  if (v == 0u) { // the padding of the row
    for (var c = HEADS * params.v_dim; c < params.pitch; c++) {
      out[row * params.pitch + c] = 0.0;
    }
  }
}
