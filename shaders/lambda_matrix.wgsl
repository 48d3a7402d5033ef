// y[n, h, v] = Σ_k Q·λ + Σ_d (Σ_k Q·Wpos)·V + residual, d over a 15×15 window: what lambda_window does, on matrix units, of halves.
//
// The FM rows of a fragment are all heads of EACH neighbouring positions, under which BAND columns of a line of the window lie. For every
// such line a unit makes the logits Q·Wpos of a fragment, FM×BAND; each position's are put over the columns that they belong to, as halves;
// and those times V, of BAND rows, are added to the sums. Of λ, FK rows at a time lie where a line's values do.
// A workgroup has FRAGMENTS fragments, RUN neighbouring positions of a line, and LINES lines of the window at a time. SHARE subgroups share
// a fragment and a line: each makes a part of what a logit adds up, and a part of the columns of V.
// The next lines' values and filters are under way in registers while the present ones are multiplied.
// Primitives, and what is NaN: see gemm_matrix.wgsl and matrix.wgsl. Rows are complete in the workgroup, which writes their variance too.
// qkv rows hold [heads·V4 | V4 | V4] vec4; lambda [image][4·V4][V4]; filters [4·V4][15 lines][4], every line padded to 16 by zero;
// out (B, P, pitch floats); variance a vec4 a row. Grid: (runs of a line, lines, images). Reference: Reference.self_lambda.

// include matrix_emulated.wgsl, or DIALECT

const HEADS: u32 = 8u;
const WINDOW: u32 = 15u;
const V4: u32 = 10u; // vec4 of a head's channels
const FRAGMENTS: u32 = 4u; // fragments of rows
const LINES: u32 = 1u;
const SHARE: u32 = 1u; // it divides the fragments of K and of V
alias Number = f32; // of residual and out; with WHOLE vec4<f32>
const WHOLE: bool = false; // every head's channels fill their vec4
const LANES: u32 = 32u; // of a subgroup
const FM: u32 = 16u;
const FN: u32 = 16u;
const FK: u32 = 16u;
const BAND: u32 = 16u; // columns under a fragment: WINDOW + EACH - 1 at most, whole FN and FK
const EACH: u32 = FM / HEADS; // positions of a fragment: one or two
const RUN: u32 = FRAGMENTS * EACH;
const ROWS: u32 = RUN * HEADS;
const COLUMNS: u32 = RUN - EACH + BAND; // of the input, under all of them
const KP: u32 = (4u * V4 + FK - 1u) / FK * FK; // channels, in whole fragments
const VP: u32 = (4u * V4 + FN - 1u) / FN * FN;
const STRIPS: u32 = FRAGMENTS * LINES;
const SUBGROUPS: u32 = STRIPS * SHARE;
const THREADS: u32 = SUBGROUPS * LANES;
const PITCH_Q: u32 = KP + 8u; // halves from one row to the next, which spreads them over the banks
const PITCH_V: u32 = VP + 8u;
const PITCH_B: u32 = BAND + 8u;
const OF_W: u32 = ROWS * PITCH_Q; // where what lies behind the queries begins: filters [line][k][column],
const OF_V: u32 = OF_W + LINES * KP * PITCH_B; // values [line][column][v],
const OF_B: u32 = OF_V + LINES * COLUMNS * PITCH_V; // and logits [strip][row][column]
const HALVES_IN_ALL: u32 = OF_B + STRIPS * FM * PITCH_B;
const QUERIES: u32 = ROWS * KP / 8u; // eights, which are what is staged at a time
const VALUES_8: u32 = LINES * COLUMNS * VP / 8u;
const FILTERS: u32 = LINES * KP * BAND / 8u;
const CONTENT: u32 = LINES * FK * VP / 8u;
const LOAD_Q: u32 = (QUERIES + THREADS - 1u) / THREADS; // of a thread
const LOAD_V: u32 = (VALUES_8 + THREADS - 1u) / THREADS;
const LOAD_W: u32 = (FILTERS + THREADS - 1u) / THREADS;
const LOAD_C: u32 = (CONTENT + THREADS - 1u) / THREADS;
const STEPS: u32 = KP / FK / SHARE; // fragments that a subgroup takes of what a logit adds up
const OWN: u32 = VP / FN / SHARE; // its fragments of sums
const ABREAST: u32 = BAND / FN; // fragments of logits
const DEEP: u32 = BAND / FK;
const VALUES: u32 = FM * FN / LANES; // of a fragment of sums, in a lane
const PITCH_S: u32 = BAND + 4u; // floats of a row that is passed
const STRIP: u32 = FM * PITCH_S;
const FEW: u32 = THREADS / RUN; // threads that finish a position
const TASKS: u32 = HEADS * SHARE * FN / 4u; // vec4 of it, at a time

struct Params {
  rows: u32, // of all images
  height: u32,
  width: u32,
  qkv_pitch: u32, // vec4 of a row of qkv
  v_dim: u32, // channels of a head
  pitch: u32, // floats of a row of out
}

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> lambda: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> filters: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> residual: array<Number>;
@group(0) @binding(4) var<storage, read_write> out: array<Number>;
@group(0) @binding(5) var<storage, read_write> variance: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

// include common.wgsl
// include matrix.wgsl
// include rows.wgsl

var<workgroup> tile: array<Halves, HALVES_IN_ALL / PER>;
var<workgroup> passed: array<Passed, SUBGROUPS * STRIP / FLOATS>;
var<workgroup> moments: array<vec4<f32>, THREADS>;
var<private> lane: u32;

fn stage(at: u32, x: Eight) {
  place(at, vec4<u32>(as_halves(bounded(x.left)), as_halves(bounded(x.right))));
}

// The row of the workgroup's position `p`, or of the line's last one.
fn row_of(group: vec3<u32>, p: u32) -> u32 {
  return (group.z * params.height + group.y) * params.width + min(group.x * RUN + p, params.width - 1u);
}

// Vec4 v of a head's V4 from `base` on, or the last: what lies behind them is multiplied by zeros, or stored nowhere.
fn channel(base: u32, v: u32) -> vec4<f32> {
  return qkv[base + min(v, V4 - 1u)];
}

// Eight i of the queries, [position and head][k].
fn query_of(group: vec3<u32>, i: u32) -> Eight {
  let e = min(i, QUERIES - 1u);
  let row = e / (KP / 8u);
  let k = 2u * (e % (KP / 8u));
  let begin = row_of(group, row / HEADS) * params.qkv_pitch + row % HEADS * V4;
  return Eight(channel(begin, k), channel(begin, k + 1u));
}

// Eight i of the values under lines dy to dy + LINES - 1 of the window, [line][column][v]: zeros outside the image and from line `end` on.
// Without a branch, here and below: the loads do not wait for each other.
fn value_of(group: vec3<u32>, dy: u32, end: u32, i: u32) -> Eight {
  let e = min(i, VALUES_8 - 1u);
  let reach = WINDOW / 2u;
  let v = 2u * (e % (VP / 8u));
  let x = group.x * RUN + e / (VP / 8u) % COLUMNS; // + reach
  let line = dy + e / (COLUMNS * VP / 8u);
  let y = group.y + min(line, end - 1u) - reach;
  let row = (group.z * params.height + y) * params.width + min(max(x, reach) - reach, params.width - 1u);
  let begin = row * params.qkv_pitch + (HEADS + 1u) * V4;
  let inside = x >= reach && x < params.width + reach && line < end;
  let zero = vec4<f32>(0.0);
  return Eight(select(zero, channel(begin, v), inside), select(zero, channel(begin, v + 1u), inside));
}

// Eight i of the filters of those lines, [line][k][column]: zeros where no channel is. A line behind the last is the last, over no values.
fn filter_of(dy: u32, i: u32) -> Eight {
  let e = min(i, FILTERS - 1u);
  let k = e / (BAND / 8u) % KP;
  let line = min(dy + e / (KP * BAND / 8u), WINDOW - 1u);
  let at = (min(k, 4u * V4 - 1u) * WINDOW + line) * (BAND / 4u) + 2u * (e % (BAND / 8u));
  let zero = vec4<f32>(0.0);
  return Eight(select(zero, filters[at], k < 4u * V4), select(zero, filters[at + 1u], k < 4u * V4));
}

// Eight i of λ from fragment k0 of its rows on, [fragment][row][v]: zeros behind its rows.
fn content_of(group: vec3<u32>, k0: u32, i: u32) -> Eight {
  let e = min(i, CONTENT - 1u);
  let v = 2u * (e % (VP / 8u));
  let k = k0 * FK + e / (VP / 8u);
  let begin = (group.z * 4u * V4 + min(k, 4u * V4 - 1u)) * V4;
  let zero = vec4<f32>(0.0);
  let is_row = k < 4u * V4;
  return Eight(select(zero, lambda[begin + min(v, V4 - 1u)], is_row), select(zero, lambda[begin + min(v + 1u, V4 - 1u)], is_row));
}

// Four floats of a strip, of all the subgroups that share it.
fn summed(strip: u32, at: u32) -> vec4<f32> {
  var v = received(strip * SHARE * STRIP + at);
  for (var q = 1u; q < SHARE; q++) {
    v += received((strip * SHARE + q) * STRIP + at);
  }
  return v;
}

// Eight j of the logits in a row of a strip, over the columns that they belong to: those of a second position one further.
fn over_columns(strip: u32, row: u32, j: u32) -> Eight {
  let at0 = row * PITCH_S + 8u * j;
  let before = select(summed(strip, max(at0, 4u) - 4u), vec4<f32>(0.0), j == 0u);
  let left = summed(strip, at0);
  let right = summed(strip, at0 + 4u);
  let second = row >= HEADS;
  return Eight(select(left, vec4<f32>(before.w, left.xyz), second), select(right, vec4<f32>(left.w, right.xyz), second));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let is_sound = is_subgroup(thread);
  lane = thread % LANES;
  let share = thread / LANES % SHARE;
  let strip = thread / LANES / SHARE;
  let line = strip % LINES;
  let fragment = strip / LINES;
  let mine = thread / LANES * STRIP;
  let of_queries = fragment * FM * PITCH_Q;
  let of_values = OF_V + line * COLUMNS * PITCH_V + share * OWN * FN;
  let of_filters = OF_W + line * KP * PITCH_B;
  let of_logits = OF_B + strip * FM * PITCH_B;
  let begin = WINDOW / 2u - min(group.y, WINDOW / 2u); // the lines of the window that are in the image
  let end = min(WINDOW, params.height + WINDOW / 2u - group.y);
  var next_v: array<Eight, LOAD_V>;
  var next_w: array<Eight, LOAD_W>;
  for (var l = 0u; l < LOAD_V; l++) { // unroll
    next_v[l] = value_of(group, begin, end, thread + l * THREADS);
  }
  for (var l = 0u; l < LOAD_W; l++) { // unroll
    next_w[l] = filter_of(begin, thread + l * THREADS);
  }
  var next_q: array<Eight, LOAD_Q>;
  for (var l = 0u; l < LOAD_Q; l++) { // unroll
    next_q[l] = query_of(group, thread + l * THREADS);
  }
  for (var l = 0u; l < LOAD_Q; l++) { // unroll
    let i = thread + l * THREADS;
    if (i < QUERIES) {
      stage(i / (KP / 8u) * PITCH_Q + 8u * (i % (KP / 8u)), next_q[l]);
    }
  }
  var none: Sum;
  var sum: array<Sum, OWN>;
  for (var dy = begin; dy < end; dy += LINES) {
    for (var l = 0u; l < LOAD_V; l++) { // unroll
      let i = thread + l * THREADS;
      if (i < VALUES_8) {
        stage(OF_V + i / (VP / 8u) * PITCH_V + 8u * (i % (VP / 8u)), next_v[l]);
      }
    }
    for (var l = 0u; l < LOAD_W; l++) { // unroll
      let i = thread + l * THREADS;
      if (i < FILTERS) {
        stage(OF_W + i / (BAND / 8u) * PITCH_B + 8u * (i % (BAND / 8u)), next_w[l]);
      }
    }
    workgroupBarrier();
    if (dy + LINES < end) { // what is loaded here is not waited for before the products are made
      for (var l = 0u; l < LOAD_V; l++) { // unroll
        next_v[l] = value_of(group, dy + LINES, end, thread + l * THREADS);
      }
      for (var l = 0u; l < LOAD_W; l++) { // unroll
        next_w[l] = filter_of(dy + LINES, thread + l * THREADS);
      }
    }
    var logits: array<Sum, ABREAST>;
    for (var j = 0u; j < ABREAST; j++) { // unroll
      logits[j] = none; // said: naga makes a variable of a loop zero once
    }
    for (var s = 0u; s < STEPS; s++) {
      let k = (share * STEPS + s) * FK;
      let x = load_left(of_queries + k, PITCH_Q);
      for (var j = 0u; j < ABREAST; j++) { // unroll
        logits[j] = multiply_add(x, load_right(of_filters + k * PITCH_B + j * FN, PITCH_B), logits[j]);
      }
    }
    for (var j = 0u; j < ABREAST; j++) { // unroll
      pass_on(mine + j * FN, logits[j]);
    }
    workgroupBarrier();
    for (var i = share * LANES + lane; i < FM * BAND / 8u; i += SHARE * LANES) {
      let row = i / (BAND / 8u);
      let j = i % (BAND / 8u);
      stage(of_logits + row * PITCH_B + 8u * j, over_columns(strip, row, j));
    }
    workgroupBarrier();
    for (var d = 0u; d < DEEP; d++) {
      let x = load_left(of_logits + d * FK, PITCH_B);
      for (var j = 0u; j < OWN; j++) { // unroll
        sum[j] = multiply_add(x, load_right(of_values + (fragment * EACH + d * FK) * PITCH_V + j * FN, PITCH_V), sum[j]);
      }
    }
    workgroupBarrier();
  }
  for (var k0 = 0u; k0 < KP / FK; k0 += LINES) {
    for (var l = 0u; l < LOAD_C; l++) { // unroll
      let i = thread + l * THREADS;
      if (i < CONTENT) {
        let row = i / (VP / 8u);
        stage(OF_V + (row / FK * COLUMNS + row % FK) * PITCH_V + 8u * (i % (VP / 8u)), content_of(group, k0, i));
      }
    }
    workgroupBarrier();
    let x = load_left(of_queries + min(k0 + line, KP / FK - 1u) * FK, PITCH_Q);
    for (var j = 0u; j < OWN; j++) { // unroll
      sum[j] = multiply_add(x, load_right(of_values + j * FN, PITCH_V), sum[j]);
    }
    workgroupBarrier();
  }
  let p = thread / FEW; // the position that this thread finishes
  let is_there = group.x * RUN + p < params.width;
  let to = row_of(group, p) * params.pitch;
  var stored = Stored();
  for (var j = 0u; j < OWN; j++) { // unroll
    pass_on(mine, sum[j]);
    workgroupBarrier();
    for (var i = thread % FEW; i < TASKS; i += FEW) {
      let c = i % (FN / 4u);
      let owner = i / (FN / 4u) % SHARE; // the subgroups
      let h = i / (FN / 4u) / SHARE;
      let v = (owner * OWN + j) * (FN / 4u) + c;
      if (v < V4) {
        let at0 = (p / EACH * LINES * SHARE + owner) * STRIP + (p % EACH * HEADS + h) * PITCH_S + 4u * c;
        var y = received(at0);
        for (var other = 1u; other < LINES; other++) {
          y += received(at0 + other * SHARE * STRIP);
        }
        let at = to + h * params.v_dim + 4u * v;
        stored = put(stored, stored.n == 0.0, checked(y, is_sound), at, at, min(params.v_dim - 4u * v, 4u), is_there);
      }
    }
    workgroupBarrier();
  }
  moments[thread] = select(vec4<f32>(0.0), moments_of(stored), stored.n > 0.0);
  workgroupBarrier();
  for (var i = thread; i < min(RUN, params.width - group.x * RUN); i += THREADS) {
    var all = moments[i * FEW].xyz;
    for (var other = 1u; other < FEW; other++) {
      all = merged(all, moments[i * FEW + other].xyz);
    }
    end_row(row_of(group, i), all);
  }
}
