// Dense layers on matrix units: the sums of dense.wgsl, for every mode of it, of products of halves.
//
// A unit multiplies FM×FK by FK×FN halves and adds them to FM×FN sums of f32, which lie spread over the lanes of a subgroup. What that is
// in a language is a handful of primitives in a file of its own, a DIALECT:
//
//   Halves, PER                    an element of a tile in workgroup memory, and how many halves it holds
//   Passed                         one of what sums are passed through there; OVERLAID, in two of them: whether in the tile's own memory
//   Left, Right, Sum               fragments: of A, of W, of sums
//   as_halves                      four numbers as halves, in two words
//   place                          eight halves into a tile
//   load_left, load_right          a fragment out of it, of rows so many halves apart
//   multiply_add                   sum + left · right
//   pass_on                        a fragment of sums into workgroup memory, where rows are PITCH_S floats apart
//   received                       four floats out of it
//   is_subgroup                    whether LANES neighbours are one
//
// The next tile is under way in registers while the present one is multiplied, as in `staged` of gemm.wgsl. Rows of a tile are eight halves
// longer than what is in them, which spreads them over the banks. What is loaded and stored at a time is eight numbers of a row: halves in
// memory that nothing is done to (RAW_A, RAW_W) go through as they are, four words. SHARE subgroups make the same sums, each of its slices
// of every tile's depth. OVERLAID, sums take the place of the tile once all of them are made.
//
// FAR, numbers of A are sixteenths of themselves in a tile, and sums become 16 times what they are: for what no norm has bounded. From 2⁻¹⁰ on
// nothing is lost by that, and a half holds a million.
//
// SPLIT makes numbers of f32 grade: v = hi + lo / 2048, both halves. hi is v without the low 13 bits of its word, so that v - hi is exact;
// Σ hi·hi and Σ (hi·lo + lo·hi) have sums of their own, and lo·lo, 2⁻²⁰ of a product at most, is left out. Below 2⁻¹⁴, where halves have
// fewer digits, hi is 0. What no half can hold becomes a NaN. Halves in memory may be infinities, which were such numbers when they were
// stored: a sum with one among its terms is infinite or a NaN, as no sum of finite halves is, and such a sum is stored as a NaN. Either way
// the result is no number: of -∞ a softmax behind it would make a sound 0.
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
const SHARE: u32 = 1u; // subgroups that have a depth in common
const ABREAST: u32 = 2u; // fragments side by side that are passed to memory at a time
const HIGH: u32 = 2u; // and one above the other
const LOAD_A: u32 = 2u; // times eight numbers of A that a thread stages, WGY·TM·BK4 / 2 / threads
const LOAD_W: u32 = 2u; // the same of W, 4·BK4·WGX·TN4 / 2 / threads
const RAW_A: bool = false; // halves that stay as they are
const RAW_W: bool = false;
alias NextA = Eight; // vec4<u32> where they do
alias NextW = Eight;
const FAR: bool = false;
const SPLIT: bool = false;
const PARTS: u32 = 1u; // halves that a number becomes: 2 under SPLIT

const PLACES: u32 = WGX * WGY; // parts of a tile of sums
const THREADS: u32 = LANES * PLACES * SHARE;
const PITCH_A: u32 = 4u * BK4 + 8u; // halves from one row of a tile to the next
const PITCH_W: u32 = 4u * WGX * TN4 + 8u;
const TILE_A: u32 = WGY * TM * PITCH_A; // halves of a part
const TILE_W: u32 = 4u * BK4 * PITCH_W;
const OF_W: u32 = PARTS * TILE_A; // where W's tile begins
const DOWN: u32 = TM / FM; // fragments of a subgroup
const ACROSS: u32 = 4u * TN4 / FN;
const SUMS: u32 = DOWN * ACROSS;
const CORRECTIONS: u32 = (PARTS - 1u) * SUMS + 2u - PARTS; // as many under SPLIT, else one that nothing uses
const ROW_A: u32 = BK4 / 2u; // eights of a row of a tile
const ROW_W: u32 = WGX * TN4 / 2u;
const STEPS: u32 = 4u * BK4 / FK / SHARE; // slices of a tile's depth that a subgroup multiplies
const VALUES: u32 = FM * FN / LANES; // of a fragment of sums, in a lane
const TURNS: u32 = ACROSS / ABREAST;
const ROW_S: u32 = ABREAST * FN / 4u; // vec4 of a row of a strip: a strip is what is passed at a time
const PITCH_S: u32 = 4u * ROW_S + 4u; // floats from one to the next
const STRIP: u32 = HIGH * FM * PITCH_S;
const STORED: u32 = HIGH * FM * ROW_S; // vec4
const OVERLAP: u32 = 0u; // 1 where OVERLAID
const STAGED: u32 = PARTS * (TILE_A + TILE_W) / PER; // elements of tiles
const PASSED: u32 = SHARE * PLACES * STRIP / FLOATS; // of what is passed
const ROOM: u32 = max(STAGED, OVERLAP * PASSED);
const LEVELS: u32 = DOWN / HIGH;
const STORERS: u32 = LANES * SHARE;
const STORES: u32 = (STORED + STORERS - 1u) / STORERS; // of a lane

// include dense.wgsl
// include matrix.wgsl

var<workgroup> tile: array<Halves, ROOM>; // of A, [part][row][k], then of W, [part][k][column]
var<workgroup> passed: array<Passed, PASSED>;
var<private> lane: u32;

// Eight numbers of a row of A from vec4 k on, zeros past the end of K.
fn next_of_a(index: i32, k: u32) -> NextA {
  var x: NextA;
  if (RAW_A) { // compiled
    if (!RAGGED || k < params.k4) { // which is even
      if (MODE == ROWS) {
        x = raw(a[(u32(index) + k) / 2u]);
      } else {
        x = select(vec4<u32>(0u), raw(a[(u32(max(index, 0)) + k) / 2u]), index >= 0);
      }
    }
  } else {
    x = NextA(ahead_a(index, k), ahead_a(index, k + 1u));
  }
  return x;
}

// The same of row k of W from column c on, in vec4.
fn next_of_w(base: u32, k: u32, c: u32) -> NextW {
  var x: NextW;
  let last = params.n4 - 1u;
  if (RAW_W) { // compiled
    if ((!RAGGED || k < 4u * params.k4) && (!TAIL || k < params.k)) {
      x = raw(w[(base + k * params.ldb4 + min(c, last)) / 2u]);
    }
  } else {
    x = NextW(ahead_w(base, k, min(c, last)), ahead_w(base, k, min(c + 1u, last)));
  }
  return x;
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
fn stage(at: u32, rest: u32, v: Eight) {
  if (SPLIT) { // compiled
    place(at, vec4<u32>(as_halves(bounded(high(v.left))), as_halves(bounded(high(v.right)))));
    place(at + rest, vec4<u32>(as_halves(low(v.left)), as_halves(low(v.right))));
  } else {
    place(at, vec4<u32>(as_halves(bounded(v.left)), as_halves(bounded(v.right))));
  }
}

fn stage_a(at: u32, v: NextA) {
  if (RAW_A) { // compiled
    place(at, v);
  } else {
    if (FAR) { // compiled
      stage(at, TILE_A, Eight(v.left / 16.0, v.right / 16.0));
    } else {
      stage(at, TILE_A, v);
    }
  }
}

fn stage_w(at: u32, v: NextW) {
  if (RAW_W) { // compiled
    place(at, v);
  } else {
    stage(at, TILE_W, v);
  }
}

// Vec4 i of a strip that was passed on, of all the subgroups that share it.
fn summed(strip: u32, i: u32) -> vec4<f32> {
  let e = min(i, STORED - 1u);
  let at = strip * STRIP + e / ROW_S * PITCH_S + 4u * (e % ROW_S);
  var v = received(at);
  for (var s = 1u; s < SHARE; s++) {
    v += received(at + s * PLACES * STRIP);
  }
  return v;
}

@compute @workgroup_size(THREADS)
fn units(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let is_sound = is_subgroup(thread);
  lane = thread % LANES;
  let strip = thread / LANES % PLACES;
  let share = thread / LANES / PLACES;
  let down = strip / WGX * TM; // where the subgroup's part of a tile begins
  let across4 = strip % WGX * TN4;
  let c0 = group.x * WGX * TN4;
  let r0 = params.row0 + group.y * WGY * TM;
  let steps = KERNEL * KERNEL * ((params.k4 + BK4 - 1u) / BK4);
  var sum: array<Sum, SUMS>;
  var correction: array<Sum, CORRECTIONS>;
  var row: array<vec3<i32>, LOAD_A>;
  var at: array<i32, LOAD_A>;
  var base = params.w_offset + group.z * KERNEL * KERNEL * params.k4 * 4u * params.ldb4;
  var next_a: array<NextA, LOAD_A>;
  var next_w: array<NextW, LOAD_W>;
  for (var l = 0u; l < LOAD_A; l++) { // unroll
    let e = thread + l * THREADS;
    row[l] = locate(min(r0 + e / ROW_A, params.rows - 1u), group.z);
    at[l] = tap_index(row[l], 0u);
    next_a[l] = next_of_a(at[l], 2u * (e % ROW_A));
  }
  for (var l = 0u; l < LOAD_W; l++) { // unroll
    let e = thread + l * THREADS;
    next_w[l] = next_of_w(base, e / ROW_W, c0 + 2u * (e % ROW_W));
  }
  var k0 = 0u;
  var tap = 0u;
  for (var step = 1u; step <= steps; step++) {
    for (var l = 0u; l < LOAD_A; l++) { // unroll
      let e = thread + l * THREADS;
      stage_a(e / ROW_A * PITCH_A + 8u * (e % ROW_A), next_a[l]);
    }
    for (var l = 0u; l < LOAD_W; l++) { // unroll
      let e = thread + l * THREADS;
      stage_w(OF_W + e / ROW_W * PITCH_W + 8u * (e % ROW_W), next_w[l]);
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
        next_a[l] = next_of_a(at[l], k0 + 2u * ((thread + l * THREADS) % ROW_A));
      }
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        let e = thread + l * THREADS;
        next_w[l] = next_of_w(base, 4u * k0 + e / ROW_W, c0 + 2u * (e % ROW_W));
      }
    }
    for (var s = 0u; s < STEPS; s++) {
      let k = (share * STEPS + s) * FK;
      var x: array<Left, DOWN>;
      var y: array<Right, ACROSS>;
      for (var i = 0u; i < DOWN; i++) { // unroll
        x[i] = load_left((down + i * FM) * PITCH_A + k, PITCH_A);
      }
      for (var j = 0u; j < ACROSS; j++) { // unroll
        y[j] = load_right(OF_W + k * PITCH_W + 4u * across4 + j * FN, PITCH_W);
      }
      for (var i = 0u; i < DOWN; i++) { // unroll
        for (var j = 0u; j < ACROSS; j++) { // unroll
          sum[i * ACROSS + j] = multiply_add(x[i], y[j], sum[i * ACROSS + j]);
        }
      }
      if (SPLIT) { // compiled
        for (var i = 0u; i < DOWN; i++) { // unroll
          let rest = load_left(TILE_A + (down + i * FM) * PITCH_A + k, PITCH_A);
          for (var j = 0u; j < ACROSS; j++) { // unroll
            correction[i * ACROSS + j] = multiply_add(rest, y[j], correction[i * ACROSS + j]);
          }
        }
        for (var j = 0u; j < ACROSS; j++) { // unroll
          let rest = load_right(OF_W + TILE_W + k * PITCH_W + 4u * across4 + j * FN, PITCH_W);
          for (var i = 0u; i < DOWN; i++) { // unroll
            correction[i * ACROSS + j] = multiply_add(x[i], rest, correction[i * ACROSS + j]);
          }
        }
      }
    }
    workgroupBarrier();
  }
  let mine = thread / LANES * STRIP;
  for (var i = 0u; i < LEVELS; i++) { // unroll
    for (var t = 0u; t < TURNS; t++) { // unroll
      let r = r0 + down + i * HIGH * FM;
      let c = c0 + across4 + t * ROW_S;
      var near: array<Beside, STORES>;
      var v: array<vec4<f32>, STORES>;
      for (var s = 0u; s < STORES; s++) { // unroll
        let e = share * LANES + lane + s * STORERS;
        near[s] = beside(row_of(min(r + e / ROW_S, params.rows - 1u), group.z), min(c + e % ROW_S, params.n4 - 1u));
      }
      for (var h = 0u; h < HIGH; h++) { // unroll
        for (var j = 0u; j < ABREAST; j++) { // unroll
          pass_on(mine + h * FM * PITCH_S + j * FN, sum[(i * HIGH + h) * ACROSS + t * ABREAST + j]);
        }
      }
      workgroupBarrier();
      for (var s = 0u; s < STORES; s++) { // unroll
        v[s] = summed(strip, share * LANES + lane + s * STORERS);
        if (FAR) { // compiled
          v[s] *= 16.0;
        }
      }
      workgroupBarrier();
      if (SPLIT) { // compiled
        for (var h = 0u; h < HIGH; h++) { // unroll
          for (var j = 0u; j < ABREAST; j++) { // unroll
            pass_on(mine + h * FM * PITCH_S + j * FN, correction[(i * HIGH + h) * ACROSS + t * ABREAST + j]);
          }
        }
        workgroupBarrier();
        for (var s = 0u; s < STORES; s++) { // unroll
          v[s] += summed(strip, share * LANES + lane + s * STORERS) / 2048.0;
        }
        workgroupBarrier();
      }
      for (var s = 0u; s < STORES; s++) { // unroll
        let e = share * LANES + lane + s * STORERS;
        let y = r + e / ROW_S;
        let x = c + e % ROW_S;
        if (e < STORED && y < params.rows && x < params.n4) {
          finish(row_of(y, group.z), x, checked(v[s], is_sound), near[s]);
        }
      }
    }
  }
}
