// Dense layers for GPUs: the sums of dense.wgsl, for every mode of it, with four numbers moved at a time.
//
// What `staged` of gemm.wgsl does, the next tile under way in registers while the present one is multiplied, in blocks: four rows of a vec4
// of K are loaded, turned in registers and stored at once, four rows in a vec4. GROUPS groups of threads may divide K: each has tiles of
// its own and takes every GROUPS-th of them, and at the end all add up and store a part of the sums.
//
// Grid: x over columns of 4·WGX·TN4, y over rows of WGY·TM, z over phases. A thread owns rows r0 + i and columns c0 + j·WGX.
// Reference: those of dense.wgsl.

const TM: u32 = 8u; // rows per thread; as many as WGX, so that there is a block of A for each thread of a group
const TN4: u32 = 1u; // columns per thread, in vec4
const WGX: u32 = 8u;
const WGY: u32 = 8u; // a multiple of four
const ACC: u32 = 8u; // TM·TN4
const BK4: u32 = 4u; // depth of a tile, in vec4
const LOAD_W: u32 = 2u; // vec4 of W that a thread stages, 4·BK4·WGX·TN4 / (WGX·WGY)
const GROUPS: u32 = 1u;

// include dense.wgsl

// Quad q of rows lies at q ^ 2·(k / 4), so that the eight blocks that are stored at a time lie in different banks, without padding.
const DEPTH: u32 = 4u * BK4; // of a tile
const TM4: u32 = TM / 4u;
const QUADS: u32 = WGY * TM / 4u;
const TILE: u32 = DEPTH * (QUADS + WGX * TN4); // both tiles of a group, in vec4
const OTHERS: u32 = GROUPS - 1u;
const PART: u32 = ACC / GROUPS; // of a thread's sums: what each group of threads adds up and stores
const THREADS: u32 = WGX * WGY; // of a group
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
  let x = (lane & 1u) + ((lane >> 1u) & 6u);
  let y = thread / 32u * 4u + ((lane >> 1u) & 1u) + ((lane >> 3u) & 2u);
  let c0 = group.x * WGX * TN4;
  let r0 = params.row0 + group.y * WGY * TM;
  let last = params.n4 - 1u;
  let depth = (params.k4 + BK4 - 1u) / BK4 * BK4;
  let turns = (KERNEL * KERNEL * depth + GROUPS * BK4 - 1u) / (GROUPS * BK4);
  let to_a = mine * TILE;
  let to_w = to_a + DEPTH * QUADS;
  let begin = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  let block = thread / BK4; // of four rows
  let column = thread % BK4; // its vec4 of K
  let to_block = to_a + 4u * column * QUADS + (block ^ (2u * column));
  var acc: array<vec4<f32>, ACC>;
  var row: array<vec3<i32>, 4>;
  var at: array<i32, 4>;
  var next_a: array<vec4<f32>, 4>;
  var next_w: array<vec4<f32>, LOAD_W>;
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
  for (var i = 0u; i < 4u; i++) { // unroll
    row[i] = locate(min(r0 + 4u * block + i, params.rows - 1u), group.z);
    at[i] = tap_index(row[i], tap);
    next_a[i] = ahead_a(at[i], k0 + column);
  }
  for (var l = 0u; l < LOAD_W; l++) { // unroll
    let e = thread + l * THREADS;
    next_w[l] = ahead_w(base, 4u * k0 + e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
  }
  for (var turn = 1u; turn <= turns; turn++) {
    tiles[to_block] = vec4<f32>(next_a[0].x, next_a[1].x, next_a[2].x, next_a[3].x);
    tiles[to_block + QUADS] = vec4<f32>(next_a[0].y, next_a[1].y, next_a[2].y, next_a[3].y);
    tiles[to_block + 2u * QUADS] = vec4<f32>(next_a[0].z, next_a[1].z, next_a[2].z, next_a[3].z);
    tiles[to_block + 3u * QUADS] = vec4<f32>(next_a[0].w, next_a[1].w, next_a[2].w, next_a[3].w);
    for (var l = 0u; l < LOAD_W; l++) { // unroll
      tiles[to_w + thread + l * THREADS] = next_w[l];
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
          for (var i = 0u; i < 4u; i++) { // unroll
            at[i] = tap_index(row[i], tap);
          }
        }
      }
      for (var i = 0u; i < 4u; i++) { // unroll
        next_a[i] = ahead_a(at[i], k0 + column);
      }
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        let e = thread + l * THREADS;
        next_w[l] = ahead_w(base, 4u * k0 + e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
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
        var sum = vec4<f32>();
        for (var s = 0u; s < GROUPS; s++) { // unroll
          if (s == p) { // in one order, whoever adds up: a row has the same bits wherever in a tile it lies
            sum += acc[p * PART + o];
          } else {
            sum += tiles[((p * OTHERS + (s + OTHERS - p) % GROUPS) * PART + o) * THREADS + thread];
          }
        }
        store(r0 + y * TM + (p * PART + o) / TN4, c0 + x + (p * PART + o) % TN4 * WGX, group.z, sum);
      }
    }
  }
}
