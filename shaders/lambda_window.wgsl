// y[n, h, v] = Σ_k Q[n, h, k]·λ[k, v] + Σ_d (Σ_k Q[n, h, k]·Wpos[k, d])·V[n + d, v] + residual[n, h·v_dim + v], d over a 15×15 window
//
// What lambda_apply does, for GPUs. A workgroup has RUN neighbouring positions of a line. For LINES lines of the window after the other it
// stages the values under them and their logits, Q·Wpos, and adds the products; the next lines' values are under way in registers then.
// A thread holds all heads of one vec4 of V, for EACH neighbouring positions, of one in LINES lines of the window.
// The queries that the logits are made of lie in workgroup memory where there is room for them (KEPT).
// With the rows complete in the workgroup, their variance is written too, for the layer norm behind.
// qkv rows hold [heads·K4 | K4 | V4] vec4, K4 = V4 = LANES; lambda [image][4·K4][V4]; filters [4·K4][15 lines][4], every line padded to
// 16 by zero; out (B, P, pitch floats); variance a vec4 a row.
// Sums are added to one product at a time: so each is one instruction. Grid: (runs of a line, lines, images). Reference: Reference.self_lambda.

const HEADS: u32 = 8u;
const WINDOW: u32 = 15u;
const RUN: u32 = 4u;
const EACH: u32 = 1u; // it divides RUN
const LINES: u32 = 1u;
const LANES: u32 = 10u;
const KEPT: bool = false;
alias Number = f32; // of residual and out; with WHOLE vec4<f32>
const WHOLE: bool = false; // every head's channels fill their vec4
const SHARE: u32 = 1u; // rows, a position and a head each, whose logits a thread makes at a time; it divides ROWS
const SPLIT: u32 = 1u; // threads that share the channels of a query: few logits would leave most threads idle; it divides LANES
const STEP: u32 = RUN / EACH;
const GROUP: u32 = STEP * LANES; // threads of a line of the window
const SIZE: u32 = GROUP * LINES;
const COLUMNS: u32 = RUN + WINDOW; // of the input under RUN positions and 16 columns of the window
const STAGED: u32 = (COLUMNS + STEP - 1u) / STEP; // values that a thread stages
const ROWS: u32 = RUN * HEADS;
const PARTS: u32 = ROWS / SHARE;
const TASKS: u32 = 4u * PARTS * LINES;
const CHANNELS: u32 = LANES / SPLIT; // vec4 of a query that a thread takes
const PITCH: u32 = 4u * HEADS + 1u; // vec4 of a position's logits; one of padding keeps positions on different banks
const LOGITS: u32 = LINES * RUN * PITCH;
const QUERY: u32 = LANES + (LANES + 1u) % 2u; // vec4 of a query, an odd number for the same reason
const ACC: u32 = EACH * HEADS;
const CARRY: u32 = EACH - 1u; // values under four columns that were under the four before
const SPAN: u32 = CARRY + 4u;

struct Params {
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

// include rows.wgsl

var<workgroup> value: array<vec4<f32>, LINES * COLUMNS * LANES>;
var<workgroup> logit: array<vec4<f32>, SPLIT * LOGITS>;
var<workgroup> query: array<vec4<f32>, ROWS * QUERY>;

// The row of the workgroup's position `p`, or of the line's last one.
fn row_of(group: vec3<u32>, p: u32) -> u32 {
  return (group.z * params.height + group.y) * params.width + min(group.x * RUN + p, params.width - 1u);
}

// V[v] in line `dy` of the window, or in its last one, before `end`, under the workgroup's column `c`. Without a branch: the loads do not wait
// for each other.
fn value_under(group: vec3<u32>, dy: u32, end: u32, c: u32, v: u32) -> vec4<f32> {
  let reach = WINDOW / 2u;
  let x = group.x * RUN + c; // + reach
  let y = group.y + min(dy, end - 1u) - reach;
  let row = (group.z * params.height + y) * params.width + min(max(x, reach) - reach, params.width - 1u);
  let inside = x >= reach && x < params.width + reach;
  return select(vec4<f32>(0.0), qkv[row * params.qkv_pitch + (HEADS + 1u) * LANES + v], inside);
}

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let s = local / GROUP; // which of LINES lines
  let t = local % GROUP;
  let v = t % LANES;
  let p = t / LANES; // of STEP
  let begin = WINDOW / 2u - min(group.y, WINDOW / 2u); // the lines of the window that are in the image
  let end = min(WINDOW, params.height + WINDOW / 2u - group.y);
  if (KEPT) { // compiled
    for (var i = local; i < ROWS * LANES; i += SIZE) {
      query[i / LANES * QUERY + i % LANES] = qkv[row_of(group, i / (HEADS * LANES)) * params.qkv_pitch + i % (HEADS * LANES)];
    }
    workgroupBarrier();
  }
  var acc: array<vec4<f32>, ACC>;
  var ahead: array<vec4<f32>, STAGED>;
  for (var l = 0u; l < STAGED; l++) { // unroll
    ahead[l] = value_under(group, begin + s, end, p + l * STEP, v);
  }
  for (var dy = begin; dy < end; dy += LINES) {
    for (var l = 0u; l < STAGED; l++) { // unroll
      if (p + l * STEP < COLUMNS) {
        value[(s * COLUMNS + p + l * STEP) * LANES + v] = ahead[l];
      }
    }
    for (var o = local; o < TASKS * SPLIT; o += SIZE) {
      let d = o % 4u; // neighbouring threads take neighbouring filters and few rows: their loads are of few lines of a cache
      let line = o / 4u % LINES;
      let part = o / (4u * LINES) % PARTS;
      let which = o / TASKS; // of SPLIT
      if (dy + line >= end) {
        for (var i = 0u; i < SHARE; i++) { // unroll
          let row = part + i * PARTS; // its values are those of the last line, and count for nothing
          logit[which * LOGITS + (line * RUN + row / HEADS) * PITCH + row % HEADS * 4u + d] = vec4<f32>(0.0);
        }
        continue;
      }
      var sum: array<vec4<f32>, SHARE>;
      for (var i = 0u; i < SHARE; i++) { // unroll
        sum[i] = vec4<f32>(0.0); // said: naga makes a variable of a loop zero once
      }
      for (var c = 0u; c < CHANNELS; c++) {
        let k = which * CHANNELS + c;
        let at = (4u * k * WINDOW + dy + line) * 4u + d;
        let w0 = filters[at];
        let w1 = filters[at + 4u * WINDOW];
        let w2 = filters[at + 8u * WINDOW];
        let w3 = filters[at + 12u * WINDOW];
        for (var i = 0u; i < SHARE; i++) { // unroll
          let row = part + i * PARTS; // position and head
          var q = vec4<f32>(0.0);
          if (KEPT) { // compiled
            q = query[row * QUERY + k];
          } else {
            q = qkv[row_of(group, row / HEADS) * params.qkv_pitch + row % HEADS * LANES + k];
          }
          sum[i] += q.x * w0;
          sum[i] += q.y * w1;
          sum[i] += q.z * w2;
          sum[i] += q.w * w3;
        }
      }
      for (var i = 0u; i < SHARE; i++) { // unroll
        let row = part + i * PARTS;
        logit[which * LOGITS + (line * RUN + row / HEADS) * PITCH + row % HEADS * 4u + d] = sum[i];
      }
    }
    if (SPLIT > 1u) {
      workgroupBarrier();
      for (var i = local; i < LOGITS; i += SIZE) {
        var all = logit[i];
        for (var part = 1u; part < SPLIT; part++) {
          all += logit[part * LOGITS + i];
        }
        logit[i] = all;
      }
    }
    workgroupBarrier();
    // What is loaded here is not waited for before the products are made.
    for (var l = 0u; l < STAGED; l++) { // unroll
      ahead[l] = value_under(group, dy + LINES + s, end, p + l * STEP, v);
    }
    let from_value = (s * COLUMNS + p * EACH) * LANES + v;
    let from_logit = (s * RUN + p * EACH) * PITCH;
    var under: array<vec4<f32>, SPAN>;
    for (var i = 0u; i < CARRY; i++) { // unroll
      under[i] = value[from_value + i * LANES];
    }
    for (var d = 0u; d < 4u; d++) { // unroll
      for (var i = 0u; i < 4u; i++) { // unroll
        under[CARRY + i] = value[from_value + (4u * d + CARRY + i) * LANES];
      }
      for (var e = 0u; e < EACH; e++) { // unroll
        for (var h = 0u; h < HEADS; h++) { // unroll
          let l = logit[from_logit + e * PITCH + 4u * h + d];
          acc[e * HEADS + h] += l.x * under[e];
          acc[e * HEADS + h] += l.y * under[e + 1u];
          acc[e * HEADS + h] += l.z * under[e + 2u];
          acc[e * HEADS + h] += l.w * under[e + 3u];
        }
      }
      for (var i = 0u; i < CARRY; i++) { // unroll
        under[i] = under[i + 4u];
      }
    }
    workgroupBarrier();
  }
  for (var k = s; k < LANES; k += LINES) {
    let at = (group.z * LANES + k) * 4u * LANES + v;
    let l0 = lambda[at];
    let l1 = lambda[at + LANES];
    let l2 = lambda[at + 2u * LANES];
    let l3 = lambda[at + 3u * LANES];
    for (var e = 0u; e < EACH; e++) { // unroll
      for (var h = 0u; h < HEADS; h++) { // unroll
        var q = vec4<f32>(0.0);
        if (KEPT) { // compiled
          q = query[((p * EACH + e) * HEADS + h) * QUERY + k];
        } else {
          q = qkv[row_of(group, p * EACH + e) * params.qkv_pitch + h * LANES + k];
        }
        acc[e * HEADS + h] += q.x * l0;
        acc[e * HEADS + h] += q.y * l1;
        acc[e * HEADS + h] += q.z * l2;
        acc[e * HEADS + h] += q.w * l3;
      }
    }
  }
  if (LINES > 1u) { // the sums of all lines, by the first of their threads
    for (var i = 0u; i < ACC; i++) { // unroll
      value[local] = acc[i];
      workgroupBarrier();
      if (s == 0u) {
        for (var other = GROUP; other < SIZE; other += GROUP) {
          acc[i] += value[local + other];
        }
      }
      workgroupBarrier();
    }
  }
  if (s == 0u) {
    let channels = min(params.v_dim - 4u * v, 4u);
    for (var e = 0u; e < EACH; e++) { // unroll
      let is_there = group.x * RUN + p * EACH + e < params.width;
      let to = row_of(group, p * EACH + e) * params.pitch + 4u * v;
      var stored = Stored();
      for (var h = 0u; h < HEADS; h++) { // unroll
        let at = to + h * params.v_dim;
        stored = put(stored, h == 0u, acc[e * HEADS + h], at, at, channels, is_there);
      }
      value[(p * EACH + e) * LANES + v] = moments_of(stored);
    }
  }
  workgroupBarrier();
  for (var i = local; i < min(RUN, params.width - group.x * RUN); i += SIZE) {
    var all = value[i * LANES].xyz;
    for (var lane = 1u; lane < LANES; lane++) {
      all = merged(all, value[i * LANES + lane].xyz);
    }
    end_row(row_of(group, i), all);
  }
}
