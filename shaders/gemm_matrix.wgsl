// Dense layers on matrix units: the sums of dense.wgsl, for every mode of it, of products of halves.
//
// A unit multiplies FM×FK by FK×FN halves and adds them to FM×FN sums of f32, which lie spread over the lanes of a subgroup. What that is
// in a language is a handful of primitives in a file of its own, a DIALECT:
//
//   Halves, PER                    an element of a tile in workgroup memory, and how many halves it holds
//   Left, Right, Sum               fragments: of A, of W, of sums
//   place                          four numbers into a tile, as halves
//   load_left, load_right          a fragment out of it
//   multiply_add                   sum + left · right
//   pass_on                        a fragment of sums into workgroup memory
//   is_subgroup                    whether LANES neighbours are one
//
// The next tile is under way in registers while the present one is multiplied, as in `staged` of gemm.wgsl. Rows of a tile are eight halves
// longer than what is in them, which spreads them over the banks.
//
// SPLIT makes numbers of f32 grade: v = hi + lo / 2048, both halves. hi is v without the low 13 bits of its word, so that v - hi is exact;
// Σ hi·hi and Σ (hi·lo + lo·hi) have sums of their own, and lo·lo, 2⁻²⁰ of a product at most, is left out. Below 2⁻¹⁴, where halves have
// fewer digits, hi is 0. What no half can hold becomes a NaN, so that the result is none either: an infinity's may be -∞, of which a softmax
// behind it makes a sound 0.
//
// Grid: x over columns of 4·WGX·TN4, y over rows of WGY·TM, z over phases. A subgroup owns TM rows × 4·TN4 columns.
// Reference: those of dense.wgsl.

// include matrix_emulated.wgsl, or DIALECT

const TM: u32 = 32u; // rows of a subgroup
const TN4: u32 = 8u; // its columns, in vec4
const WGX: u32 = 2u; // subgroups
const WGY: u32 = 2u;
const LANES: u32 = 32u; // of a subgroup
const FM: u32 = 16u;
const FN: u32 = 16u;
const FK: u32 = 16u;
const BK4: u32 = 8u; // depth of a tile, in vec4
const LOAD_A: u32 = 4u; // vec4 of A a thread stages, WGY·TM·BK4 / threads
const LOAD_W: u32 = 4u; // vec4 of W a thread stages, 4·BK4·WGX·TN4 / threads
const SPLIT: bool = false;
const PARTS: u32 = 1u; // halves that a number becomes: 2 under SPLIT

const THREADS: u32 = LANES * WGX * WGY;
const PITCH_A: u32 = 4u * BK4 + 8u; // halves from one row of a tile to the next
const PITCH_W: u32 = 4u * WGX * TN4 + 8u;
const TILE_A: u32 = WGY * TM * PITCH_A; // halves of a part
const TILE_W: u32 = 4u * BK4 * PITCH_W;
const OF_W: u32 = PARTS * TILE_A; // where W's tile begins
const DOWN: u32 = TM / FM; // fragments of a subgroup
const ACROSS: u32 = 4u * TN4 / FN;
const SUMS: u32 = DOWN * ACROSS;
const CORRECTIONS: u32 = (PARTS - 1u) * SUMS + 2u - PARTS; // as many under SPLIT, else one that nothing uses
const STEPS: u32 = 4u * BK4 / FK;
const VALUES: u32 = FM * FN / LANES; // of a fragment of sums, in a lane
const PASSED: u32 = FM * FN; // floats of such a fragment
const STORES: u32 = (FM * FN / 4u + LANES - 1u) / LANES; // of vec4, a lane

// include dense.wgsl

var<workgroup> tile: array<Halves, PARTS * (TILE_A + TILE_W) / PER>; // of A, [part][row][k], then of W, [part][k][column]
var<workgroup> passed: array<f32, WGX * WGY * PASSED>;
var<private> lane: u32;

// A NaN for what no half can hold, from 65520 on: what a conversion would make of it may be anything.
fn bounded(v: vec4<f32>) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(v);
  let none = bitcast<vec4<f32>>(bits | vec4<u32>(0x7fc00000u));
  return select(v, none, (bits & vec4<u32>(0x7fffffffu)) >= vec4<u32>(0x477ff000u));
}

fn high(v: vec4<f32>) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(v);
  let tiny = (bits & vec4<u32>(0x7fffffffu)) < vec4<u32>(0x38800000u); // 2⁻¹⁴
  return select(bitcast<vec4<f32>>(bits & vec4<u32>(0xffffe000u)), vec4<f32>(0.0), tiny);
}

// The rest, 2048 times: at most 65528, which the largest half stands for.
fn low(v: vec4<f32>) -> vec4<f32> {
  return clamp((v - high(v)) * 2048.0, vec4<f32>(-65504.0), vec4<f32>(65504.0));
}

// Under SPLIT in two parts, the low one `rest` halves behind the high one.
fn stage(at: u32, rest: u32, v: vec4<f32>) {
  if (SPLIT) { // compiled
    place(at, bounded(high(v)));
    place(at + rest, low(v));
  } else {
    place(at, bounded(v));
  }
}

// Vec4 i of what was passed on.
fn received(at: u32, i: u32) -> vec4<f32> {
  let q = at + 4u * min(i, PASSED / 4u - 1u);
  return vec4<f32>(passed[q], passed[q + 1u], passed[q + 2u], passed[q + 3u]);
}

@compute @workgroup_size(THREADS)
fn units(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let is_sound = is_subgroup(thread);
  lane = thread % LANES;
  let subgroup = thread / LANES;
  let down = subgroup / WGX * TM; // where the subgroup's part of a tile begins
  let across4 = subgroup % WGX * TN4;
  let c0 = group.x * WGX * TN4;
  let r0 = params.row0 + group.y * WGY * TM;
  let last = params.n4 - 1u;
  let steps = KERNEL * KERNEL * ((params.k4 + BK4 - 1u) / BK4);
  var sum: array<Sum, SUMS>;
  var correction: array<Sum, CORRECTIONS>;
  var row: array<vec3<i32>, LOAD_A>;
  var at: array<i32, LOAD_A>;
  var base = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  var next_a: array<vec4<f32>, LOAD_A>;
  var next_w: array<vec4<f32>, LOAD_W>;
  for (var l = 0u; l < LOAD_A; l++) { // unroll
    let e = thread + l * THREADS;
    row[l] = locate(min(r0 + e / BK4, params.rows - 1u), group.z);
    at[l] = tap_index(row[l], 0u);
    next_a[l] = ahead_a(at[l], e % BK4);
  }
  for (var l = 0u; l < LOAD_W; l++) { // unroll
    let e = thread + l * THREADS;
    next_w[l] = ahead_w(base, e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
  }
  var k0 = 0u;
  var tap = 0u;
  for (var step = 1u; step <= steps; step++) {
    for (var l = 0u; l < LOAD_A; l++) { // unroll
      let e = thread + l * THREADS;
      stage(e / BK4 * PITCH_A + 4u * (e % BK4), TILE_A, next_a[l]);
    }
    for (var l = 0u; l < LOAD_W; l++) { // unroll
      let e = thread + l * THREADS;
      stage(OF_W + e / (WGX * TN4) * PITCH_W + 4u * (e % (WGX * TN4)), TILE_W, next_w[l]);
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
        next_a[l] = ahead_a(at[l], k0 + (thread + l * THREADS) % BK4);
      }
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        let e = thread + l * THREADS;
        next_w[l] = ahead_w(base, 4u * k0 + e / (WGX * TN4), min(c0 + e % (WGX * TN4), last));
      }
    }
    for (var k = 0u; k < STEPS; k++) {
      var x: array<Left, DOWN>;
      var y: array<Right, ACROSS>;
      for (var i = 0u; i < DOWN; i++) { // unroll
        x[i] = load_left((down + i * FM) * PITCH_A + k * FK);
      }
      for (var j = 0u; j < ACROSS; j++) { // unroll
        y[j] = load_right(OF_W + k * FK * PITCH_W + 4u * across4 + j * FN);
      }
      for (var i = 0u; i < DOWN; i++) { // unroll
        for (var j = 0u; j < ACROSS; j++) { // unroll
          sum[i * ACROSS + j] = multiply_add(x[i], y[j], sum[i * ACROSS + j]);
        }
      }
      if (SPLIT) { // compiled
        for (var i = 0u; i < DOWN; i++) { // unroll
          let rest = load_left(TILE_A + (down + i * FM) * PITCH_A + k * FK);
          for (var j = 0u; j < ACROSS; j++) { // unroll
            correction[i * ACROSS + j] = multiply_add(rest, y[j], correction[i * ACROSS + j]);
          }
        }
        for (var j = 0u; j < ACROSS; j++) { // unroll
          let rest = load_right(OF_W + TILE_W + k * FK * PITCH_W + 4u * across4 + j * FN);
          for (var i = 0u; i < DOWN; i++) { // unroll
            correction[i * ACROSS + j] = multiply_add(x[i], rest, correction[i * ACROSS + j]);
          }
        }
      }
    }
    workgroupBarrier();
  }
  let mine = subgroup * PASSED;
  let unsound = vec4<f32>(bitcast<f32>(params.rows | 0x7fc00000u)); // a NaN
  for (var i = 0u; i < DOWN; i++) { // unroll
    for (var j = 0u; j < ACROSS; j++) { // unroll
      var v: array<vec4<f32>, STORES>;
      pass_on(mine, sum[i * ACROSS + j]);
      workgroupBarrier();
      for (var s = 0u; s < STORES; s++) { // unroll
        v[s] = received(mine, lane + s * LANES);
      }
      workgroupBarrier();
      if (SPLIT) { // compiled
        pass_on(mine, correction[i * ACROSS + j]);
        workgroupBarrier();
        for (var s = 0u; s < STORES; s++) { // unroll
          v[s] += received(mine, lane + s * LANES) / 2048.0;
        }
        workgroupBarrier();
      }
      for (var s = 0u; s < STORES; s++) { // unroll
        let e = lane + s * LANES;
        if (e < PASSED / 4u) {
          let c = across4 + j * FN / 4u + e % (FN / 4u);
          store(r0 + down + i * FM + e / (FN / 4u), c0 + c, group.z, select(unsound, v[s], is_sound));
        }
      }
    }
  }
}
