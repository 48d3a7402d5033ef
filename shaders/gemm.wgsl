// Dense layers: the sums of dense.wgsl, for every mode of it.
//
// Six kernels. For software drivers, where workgroup memory and barriers cost most: `direct` reads both operands from global memory, and
// in `lines` neighbours along a line share the input under them. For GPUs, tiles of A and W lie in workgroup memory: `tiled`; `staged`,
// with the next tile under way in registers while it multiplies the present one; `blocked`, which does so too, moves four numbers at a
// time, and may divide K among groups of threads; and `thin` for few columns, whose lanes divide K.
//
// Grid: x over columns of 4·WGX·TN4 (`thin`: of 4·TN4), y over rows of WGY·TM, z over phases. A thread owns rows r0 + i·WGY, or r0 + i
// where `staged`, `blocked` and `thin` are, and columns c0 + j·WGX.
// Reference: those of dense.wgsl.

const TM: u32 = 4u; // rows per thread
const TN4: u32 = 2u; // columns per thread, in vec4
const WGX: u32 = 8u;
const WGY: u32 = 8u;
const ACC: u32 = 8u; // TM·TN4
const BK4: u32 = 4u; // tiled, staged, blocked: depth of a tile, in vec4
const LOAD_A: u32 = 2u; // tiled, staged: vec4 of A a thread stages, WGY·TM·BK4 / threads; blocked: blocks of four
const LOAD_W: u32 = 4u; // tiled, staged, blocked: vec4 of W a thread stages, 4·BK4·WGX·TN4 / threads
const GROUPS: u32 = 1u; // blocked: of threads, among which K is divided

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

// The groups of `blocked` have tiles of their own: A's transposed, four rows in a vec4. Four rows of a vec4 of K, a block, are loaded,
// turned in registers and stored at once. Quad q of rows lies at q ^ 2·(k / 4), so that the eight blocks that are stored at a time lie in
// different banks, without padding; QUADS is a multiple of eight.
const TM4: u32 = TM / 4u;
const QUADS: u32 = WGY * TM / 4u;
const TILE: u32 = DEPTH * (QUADS + WGX * TN4); // both tiles of a group, in vec4
const OTHERS: u32 = GROUPS - 1u;
const PART: u32 = ACC / GROUPS; // of a thread's sums: what each group of threads adds up and stores
const THREADS: u32 = WGX * WGY; // of a group
const BOTH: bool = true; // all threads stage blocks of A, LOAD_A each, and LOAD_W vec4 of W; else a block each, and the others W
const FROM_W: u32 = 0u; // the first thread that stages W
const BLOCKS: u32 = 4u * LOAD_A; // vec4 of A that a thread stages
const AHEAD: u32 = 12u; // vec4 that a thread has under way: at first those of A, at last those of W
var<workgroup> tiles: array<vec4<f32>, GROUPS * TILE>;

// Tap and vec4 of it, for a vec4 of the taps side by side, each of `depth`; past all of them the end of the last one.
fn of_taps(k: u32, depth: u32) -> vec2<u32> {
  let tap = k / depth;
  if (tap >= KERNEL * KERNEL) {
    return vec2<u32>(KERNEL * KERNEL - 1u, depth);
  }
  return vec2<u32>(tap, k % depth);
}

@compute @workgroup_size(WGX, WGY, GROUPS)
fn blocked(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let mine = select(index / THREADS, 0u, GROUPS == 1u); // the number of this thread's group
  let thread = index % THREADS;
  // 32 threads are 8 across and 4 down: of neighbours two share their rows, and the two behind them their columns, which is what the
  // memory of some GPUs can answer at once.
  let lane = thread % 32u;
  let x = thread / 32u % (WGX / 8u) * 8u + (lane & 1u) + ((lane >> 1u) & 6u);
  let y = thread / 32u / (WGX / 8u) * 4u + ((lane >> 1u) & 1u) + ((lane >> 3u) & 2u);
  let c0 = group.x * WGX * TN4;
  let r0 = params.row0 + group.y * WGY * TM;
  let last = params.n4 - 1u;
  let depth = (params.k4 + BK4 - 1u) / BK4 * BK4;
  let turns = (KERNEL * KERNEL * depth + GROUPS * BK4 - 1u) / (GROUPS * BK4);
  let to_a = mine * TILE;
  let to_w = to_a + DEPTH * QUADS;
  let begin = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, BLOCKS>;
  var at: array<i32, BLOCKS>;
  var next: array<vec4<f32>, AHEAD>;
  var quad: array<u32, BK4>;
  for (var k = 0u; k < BK4; k++) { // unroll
    quad[k] = to_a + ((y * TM4) ^ (2u * k));
  }
  var reached = mine * BK4;
  var k0 = reached;
  var base = begin;
  var tap = 0u;
  if (KERNEL > 1u) {
    let to = of_taps(reached, depth);
    tap = to.x;
    k0 = to.y;
    base = begin + tap * 4u * params.k4 * params.ldb4;
  }
  if (BOTH || thread < FROM_W) {
    for (var l = 0u; l < LOAD_A; l++) { // unroll
      for (var i = 0u; i < 4u; i++) { // unroll
        let e = thread + l * THREADS;
        row[4u * l + i] = locate(min(r0 + e / BK4 * 4u + i, params.rows - 1u), group.z);
        at[4u * l + i] = tap_index(row[4u * l + i], tap);
        next[4u * l + i] = ahead_a(at[4u * l + i], k0 + e % BK4);
      }
    }
  }
  if (BOTH || thread >= FROM_W) {
    for (var l = 0u; l < LOAD_W; l++) { // unroll
      let e = thread - FROM_W + l * (THREADS - FROM_W);
      next[AHEAD - LOAD_W + l] = ahead_w(base, 4u * k0 + e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
    }
  }
  for (var turn = 1u; turn <= turns; turn++) {
    if (BOTH || thread < FROM_W) {
      for (var l = 0u; l < LOAD_A; l++) { // unroll
        let e = thread + l * THREADS;
        let to = to_a + 4u * (e % BK4) * QUADS + ((e / BK4) ^ (2u * (e % BK4)));
        tiles[to] = vec4<f32>(next[4u * l].x, next[4u * l + 1u].x, next[4u * l + 2u].x, next[4u * l + 3u].x);
        tiles[to + QUADS] = vec4<f32>(next[4u * l].y, next[4u * l + 1u].y, next[4u * l + 2u].y, next[4u * l + 3u].y);
        tiles[to + 2u * QUADS] = vec4<f32>(next[4u * l].z, next[4u * l + 1u].z, next[4u * l + 2u].z, next[4u * l + 3u].z);
        tiles[to + 3u * QUADS] = vec4<f32>(next[4u * l].w, next[4u * l + 1u].w, next[4u * l + 2u].w, next[4u * l + 3u].w);
      }
    }
    if (BOTH || thread >= FROM_W) {
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        tiles[to_w + thread - FROM_W + l * (THREADS - FROM_W)] = next[AHEAD - LOAD_W + l];
      }
    }
    workgroupBarrier();
    if (turn < turns) { // what is loaded here is not waited for before the products are made
      k0 += GROUPS * BK4;
      if (KERNEL > 1u) {
        reached += GROUPS * BK4;
        if (k0 >= depth) {
          let to = of_taps(reached, depth);
          tap = to.x;
          k0 = to.y;
          base = begin + tap * 4u * params.k4 * params.ldb4;
          for (var i = 0u; i < BLOCKS; i++) { // unroll
            at[i] = tap_index(row[i], tap);
          }
        }
      }
      if (BOTH || thread < FROM_W) {
        for (var l = 0u; l < LOAD_A; l++) { // unroll
          for (var i = 0u; i < 4u; i++) { // unroll
            next[4u * l + i] = ahead_a(at[4u * l + i], k0 + (thread + l * THREADS) % BK4);
          }
        }
      }
      if (BOTH || thread >= FROM_W) {
        for (var l = 0u; l < LOAD_W; l++) { // unroll
          let e = thread - FROM_W + l * (THREADS - FROM_W);
          next[AHEAD - LOAD_W + l] = ahead_w(base, 4u * k0 + e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
        }
      }
    }
    for (var k = 0u; k < DEPTH; k++) { // unroll
      var v: array<vec4<f32>, TM4>;
      for (var i = 0u; i < TM4; i++) { // unroll
        v[i] = tiles[quad[k / 4u] + k * QUADS + i];
      }
      for (var j = 0u; j < TN4; j++) { // unroll
        let b = tiles[to_w + x + k * WGX * TN4 + j * WGX];
        for (var i = 0u; i < TM4; i++) { // unroll
          acc[4u * i * TN4 + j] += v[i].x * b;
          acc[(4u * i + 1u) * TN4 + j] += v[i].y * b;
          acc[(4u * i + 2u) * TN4 + j] += v[i].z * b;
          acc[(4u * i + 3u) * TN4 + j] += v[i].w * b;
        }
      }
    }
    workgroupBarrier();
  }
  if (GROUPS > 1u) { // each gives the others what they add up: the one behind it at the front
    for (var p = 0u; p < GROUPS; p++) { // unroll
      if (p != mine) {
        for (var o = 0u; o < PART; o++) { // unroll
          tiles[((p * OTHERS + (mine + OTHERS - p) % GROUPS) * PART + o) * THREADS + thread] = acc[p * PART + o];
        }
      }
    }
    workgroupBarrier();
  }
  for (var p = 0u; p < GROUPS; p++) { // unroll
    if (p == mine) {
      for (var o = 0u; o < PART; o++) { // unroll
        var sum = acc[p * PART + o];
        for (var s = 0u; s < OTHERS; s++) { // unroll
          sum += tiles[((p * OTHERS + s) * PART + o) * THREADS + thread];
        }
        store(r0 + y * TM + (p * PART + o) / TN4, c0 + x + (p * PART + o) % TN4 * WGX, group.z, sum);
      }
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
