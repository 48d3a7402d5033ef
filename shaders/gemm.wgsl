// Dense layers: the sums of dense.wgsl, for every mode of it.
//
// Five kernels. For software drivers, where workgroup memory and barriers cost most: `direct` reads both operands from global memory, and
// in `lines` neighbours along a line share the input under them. For GPUs, tiles of A and W lie in workgroup memory: `tiled`; `staged`,
// with the next tile under way in registers while it multiplies the present one; and `thin` for few columns, whose lanes divide K.
// A sixth is `blocked` of gemm_blocked.wgsl.
//
// Grid: x over columns of 4·WGX·TN4 (`thin`: of 4·TN4), y over rows of WGY·TM, z over phases. A thread owns rows r0 + i·WGY, or r0 + i
// where `staged` and `thin` are, and columns c0 + j·WGX.
// Reference: those of dense.wgsl.

const TM: u32 = 4u; // rows per thread
const TN4: u32 = 2u; // columns per thread, in vec4
const WGX: u32 = 8u;
const WGY: u32 = 8u;
const ACC: u32 = 8u; // TM·TN4
const BK4: u32 = 4u; // tiled, staged: depth of a tile, in vec4
const LOAD_A: u32 = 2u; // vec4 of A that a thread of theirs stages, WGY·TM·BK4 / threads
const LOAD_W: u32 = 4u; // and of W, 4·BK4·WGX·TN4 / threads

// include dense.wgsl

@compute @workgroup_size(WGX, WGY)
fn direct(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c0 = group.x * WGX * TN4 + local.x;
  let r0 = params.row0 + group.y * WGY * TM + local.y;
  let last = params.n4 - 1u;
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, TM>;
  for (var i = 0u; i < TM; i++) { // unroll
    row[i] = locate(min(r0 + i * WGY, params.rows - 1u), group.z);
  }
  var w0 = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
    var at: array<i32, TM>;
    for (var i = 0u; i < TM; i++) { // unroll
      at[i] = tap_index(row[i], tap);
    }
    for (var k = 0u; k < params.k4; k++) {
      var x: array<vec4<f32>, TM>;
      for (var i = 0u; i < TM; i++) { // unroll
        x[i] = load_a(at[i], k);
      }
      for (var j = 0u; j < TN4; j++) { // unroll
        let c = w0 + min(c0 + j * WGX, last);
        let b0 = load_w(c, 4u * k);
        let b1 = load_w(c + params.ldb4, 4u * k + 1u);
        let b2 = load_w(c + 2u * params.ldb4, 4u * k + 2u);
        let b3 = load_w(c + 3u * params.ldb4, 4u * k + 3u);
        for (var i = 0u; i < TM; i++) { // unroll
          acc[i * TN4 + j] += x[i].x * b0 + x[i].y * b1 + x[i].z * b2 + x[i].w * b3;
        }
      }
      w0 += 4u * params.ldb4;
    }
  }
  for (var i = 0u; i < TM; i++) { // unroll
    for (var j = 0u; j < TN4; j++) { // unroll
      store(r0 + i * WGY, c0 + j * WGX, group.z, acc[i * TN4 + j]);
    }
  }
}

const COLUMNS: u32 = TM + KERNEL - 1u; // of the input under TM neighbouring outputs

@compute @workgroup_size(WGX, WGY)
fn lines(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c = group.x * WGX + local.x;
  let runs = (params.out_width + TM - 1u) / TM;
  let run = group.y * WGY + local.y;
  let line = params.row0 / params.out_width + run / runs; // of all images
  let x0 = run % runs * TM;
  let first_tap = locate(min(line, (params.rows - 1u) / params.out_width) * params.out_width + x0, group.z);
  let depth = 4u * params.ldb4;
  let w0 = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * depth + min(c, params.n4 - 1u);
  var acc: array<vec4<f32>, TM>;
  for (var dy = 0u; dy < KERNEL; dy++) {
    var at: array<i32, COLUMNS>;
    for (var i = 0u; i < COLUMNS; i++) { // unroll
      at[i] = tap_index(first_tap + vec3<i32>(0, 0, i32(i)), dy * KERNEL);
    }
    for (var k = 0u; k < params.k4; k++) {
      var x: array<vec4<f32>, COLUMNS>;
      for (var i = 0u; i < COLUMNS; i++) { // unroll
        x[i] = load_a(at[i], k);
      }
      for (var dx = 0u; dx < KERNEL; dx++) { // unroll
        let at_w = w0 + ((dy * KERNEL + dx) * params.k4 + k) * depth;
        let b0 = w[at_w];
        let b1 = w[at_w + params.ldb4];
        let b2 = w[at_w + 2u * params.ldb4];
        let b3 = w[at_w + 3u * params.ldb4];
        for (var i = 0u; i < TM; i++) { // unroll
          let v = x[i + dx];
          acc[i] += v.x * b0 + v.y * b1 + v.z * b2 + v.w * b3;
        }
      }
    }
  }
  for (var i = 0u; i < TM; i++) { // unroll
    if (x0 + i < params.out_width) {
      store(line * params.out_width + x0 + i, c, group.z, acc[i]);
    }
  }
}

const ROW_PITCH: u32 = BK4 + 1u; // one vec4 of padding keeps the rows of a tile on different banks
var<workgroup> tile_a: array<vec4<f32>, WGY * TM * ROW_PITCH>;
var<workgroup> tile_w: array<vec4<f32>, 4u * BK4 * WGX * TN4>;

@compute @workgroup_size(WGX, WGY)
fn tiled(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) local: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let c0 = group.x * WGX * TN4;
  let r0 = params.row0 + group.y * WGY * TM;
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, LOAD_A>;
  for (var l = 0u; l < LOAD_A; l++) { // unroll
    row[l] = locate(min(r0 + (thread + l * WGX * WGY) / BK4, params.rows - 1u), group.z);
  }
  let w0 = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
    var at: array<i32, LOAD_A>;
    for (var l = 0u; l < LOAD_A; l++) { // unroll
      at[l] = tap_index(row[l], tap);
    }
    for (var k0 = 0u; k0 < params.k4; k0 += BK4) {
      for (var l = 0u; l < LOAD_A; l++) { // unroll
        let e = thread + l * WGX * WGY;
        let k = k0 + e % BK4;
        var v = vec4<f32>(0.0);
        if (k < params.k4) {
          v = load_a(at[l], k);
        }
        tile_a[e / BK4 * ROW_PITCH + e % BK4] = v;
      }
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        let e = thread + l * WGX * WGY;
        let k = 4u * k0 + e / (WGX * TN4);
        let c = min(c0 + e % (WGX * TN4), params.n4 - 1u);
        var v = vec4<f32>(0.0);
        if (k < 4u * params.k4) {
          v = load_w(w0 + (tap * 4u * params.k4 + k) * params.ldb4 + c, k);
        }
        tile_w[e] = v;
      }
      workgroupBarrier();
      for (var k = 0u; k < BK4; k++) { // unroll
        var x: array<vec4<f32>, TM>;
        for (var i = 0u; i < TM; i++) { // unroll
          x[i] = tile_a[(local.y + i * WGY) * ROW_PITCH + k];
        }
        for (var j = 0u; j < TN4; j++) { // unroll
          let at_w = 4u * k * WGX * TN4 + local.x + j * WGX;
          let b0 = tile_w[at_w];
          let b1 = tile_w[at_w + WGX * TN4];
          let b2 = tile_w[at_w + 2u * WGX * TN4];
          let b3 = tile_w[at_w + 3u * WGX * TN4];
          for (var i = 0u; i < TM; i++) { // unroll
            acc[i * TN4 + j] += x[i].x * b0 + x[i].y * b1 + x[i].z * b2 + x[i].w * b3;
          }
        }
      }
      workgroupBarrier();
    }
  }
  for (var i = 0u; i < TM; i++) { // unroll
    for (var j = 0u; j < TN4; j++) { // unroll
      store(r0 + local.y + i * WGY, c0 + local.x + j * WGX, group.z, acc[i * TN4 + j]);
    }
  }
}

const DEPTH: u32 = 4u * BK4; // of a tile
const RUN: u32 = WGY * TM + 4u; // a column of A's tile; four floats of padding spread the columns over the banks
var<workgroup> turned_a: array<f32, DEPTH * RUN>; // transposed

@compute @workgroup_size(WGX, WGY)
fn staged(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) local: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let c0 = group.x * WGX * TN4;
  let r0 = params.row0 + group.y * WGY * TM;
  let last = params.n4 - 1u;
  let steps = KERNEL * KERNEL * ((params.k4 + BK4 - 1u) / BK4);
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, LOAD_A>;
  var at: array<i32, LOAD_A>;
  var base = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  var next_a: array<vec4<f32>, LOAD_A>;
  var next_w: array<vec4<f32>, LOAD_W>;
  for (var l = 0u; l < LOAD_A; l++) { // unroll
    let e = thread + l * WGX * WGY;
    row[l] = locate(min(r0 + e / BK4, params.rows - 1u), group.z);
    at[l] = tap_index(row[l], 0u);
    next_a[l] = ahead_a(at[l], e % BK4);
  }
  for (var l = 0u; l < LOAD_W; l++) { // unroll
    let e = thread + l * WGX * WGY;
    next_w[l] = ahead_w(base, e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
  }
  var k0 = 0u;
  var tap = 0u;
  for (var step = 1u; step <= steps; step++) {
    for (var l = 0u; l < LOAD_A; l++) { // unroll
      let e = thread + l * WGX * WGY;
      let to = 4u * (e % BK4) * RUN + e / BK4;
      turned_a[to] = next_a[l].x;
      turned_a[to + RUN] = next_a[l].y;
      turned_a[to + 2u * RUN] = next_a[l].z;
      turned_a[to + 3u * RUN] = next_a[l].w;
    }
    for (var l = 0u; l < LOAD_W; l++) { // unroll
      tile_w[thread + l * WGX * WGY] = next_w[l];
    }
    workgroupBarrier();
    if (step < steps) { // what is loaded here is not waited for before the products are made
      k0 += BK4;
      if (KERNEL > 1u && k0 >= params.k4) {
        k0 = 0u;
        tap += 1u;
        base += 4u * params.k4 * params.ldb4;
        for (var l = 0u; l < LOAD_A; l++) { // unroll
          at[l] = tap_index(row[l], tap);
        }
      }
      for (var l = 0u; l < LOAD_A; l++) { // unroll
        next_a[l] = ahead_a(at[l], k0 + (thread + l * WGX * WGY) % BK4);
      }
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        let e = thread + l * WGX * WGY;
        next_w[l] = ahead_w(base, 4u * k0 + e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
      }
    }
    for (var k = 0u; k < DEPTH; k++) { // unroll
      var x: array<f32, TM>;
      for (var i = 0u; i < TM; i++) { // unroll
        x[i] = turned_a[k * RUN + local.y * TM + i];
      }
      for (var j = 0u; j < TN4; j++) { // unroll
        let b = tile_w[k * WGX * TN4 + local.x + j * WGX];
        for (var i = 0u; i < TM; i++) { // unroll
          acc[i * TN4 + j] += x[i] * b;
        }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < TM; i++) { // unroll
    for (var j = 0u; j < TN4; j++) { // unroll
      store(r0 + local.y * TM + i, c0 + local.x + j * WGX, group.z, acc[i * TN4 + j]);
    }
  }
}

// Each lane's sums over its part of K; one vec4 of padding keeps the sums that neighbouring lanes add up on different banks.
const LANES: u32 = WGX + 1u;
var<workgroup> parts: array<vec4<f32>, WGY * ACC * LANES>;

@compute @workgroup_size(WGX, WGY)
fn thin(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
  let c0 = group.x * TN4;
  let r0 = params.row0 + (group.y * WGY + local.y) * TM;
  let last = params.n4 - 1u;
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, TM>;
  for (var i = 0u; i < TM; i++) { // unroll
    row[i] = locate(min(r0 + i, params.rows - 1u), group.z);
  }
  for (var tap = 0u; tap < KERNEL * KERNEL; tap++) {
    var at: array<i32, TM>;
    for (var i = 0u; i < TM; i++) { // unroll
      at[i] = tap_index(row[i], tap);
    }
    let base = params.w_offset + (group.z * KERNEL * KERNEL + tap) * params.k4 * 4u * params.ldb4;
    for (var k = local.x; k < params.k4; k += WGX) { // neighbouring lanes read neighbouring vec4 of A
      var x: array<vec4<f32>, TM>;
      for (var i = 0u; i < TM; i++) { // unroll
        x[i] = load_a(at[i], k);
      }
      for (var j = 0u; j < TN4; j++) { // unroll
        let at_w = base + 4u * k * params.ldb4 + min(c0 + j, last);
        let b0 = load_w(at_w, 4u * k);
        let b1 = load_w(at_w + params.ldb4, 4u * k + 1u);
        let b2 = load_w(at_w + 2u * params.ldb4, 4u * k + 2u);
        let b3 = load_w(at_w + 3u * params.ldb4, 4u * k + 3u);
        for (var i = 0u; i < TM; i++) { // unroll
          acc[i * TN4 + j] += x[i].x * b0 + x[i].y * b1 + x[i].z * b2 + x[i].w * b3;
        }
      }
    }
  }
  for (var o = 0u; o < ACC; o++) { // unroll
    parts[(local.y * ACC + o) * LANES + local.x] = acc[o];
  }
  workgroupBarrier();
  for (var o = local.x; o < ACC; o += WGX) {
    var sum = vec4<f32>(0.0);
    for (var lane = 0u; lane < WGX; lane++) {
      sum += parts[(local.y * ACC + o) * LANES + lane];
    }
    store(r0 + o / TN4, c0 + o % TN4, group.z, sum);
  }
}
