// Matrix units in plain WGSL, for devices that have none: the primitives of gemm_matrix.wgsl and lambda_matrix.wgsl, where nothing is
// asked of a device.
//
// A fragment of an operand is the place where it begins in its tile and how far its rows are apart, one of sums a few values a lane: value
// i of a lane is element lane + i·LANES of the fragment, row by row. A product reads both tiles. The arithmetic is f32, on halves that are
// packed in pairs.

alias Halves = u32; // an element of a tile
const PER: u32 = 2u; // halves in one
alias Passed = f32;
const FLOATS: u32 = 1u; // in one of those
const OVERLAID: bool = false; // sums are passed where the tile was
alias Left = vec2<u32>;
alias Right = vec2<u32>;
alias Sum = array<f32, VALUES>;

// A number that no compiler knows: one that does writes out the loops below, once for every fragment there is.
fn unknown(n: u32) -> u32 {
  return min(n, params.rows | n);
}

// Whether LANES neighbours are one subgroup: here they need not be.
fn is_subgroup(thread: u32) -> bool {
  return true;
}

fn as_halves(v: vec4<f32>) -> vec2<u32> {
  return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
}

fn place(at: u32, v: vec4<u32>) {
  for (var i = 0u; i < 4u; i++) { // unroll
    tile[at / PER + i] = v[i];
  }
}

fn load_left(at: u32, pitch: u32) -> Left {
  return vec2<u32>(at, pitch);
}

fn load_right(at: u32, pitch: u32) -> Right {
  return vec2<u32>(at, pitch);
}

fn multiply_add(x: Left, y: Right, sum: Sum) -> Sum {
  var made = sum;
  let values = unknown(VALUES);
  let depth = unknown(FK);
  for (var i = 0u; i < values; i++) {
    let e = lane + i * LANES;
    let row = x.x + e / FN * x.y;
    let column = y.x + e % FN;
    for (var k = 0u; k < depth; k += PER) {
      let p = unpack2x16float(tile[(row + k) / PER]);
      let at = column + k * y.y;
      let q = unpack2x16float(tile[at / PER]);
      let r = unpack2x16float(tile[(at + y.y) / PER]);
      made[i] += p.x * select(q.x, q.y, at % PER > 0u) + p.y * select(r.x, r.y, at % PER > 0u);
    }
  }
  return made;
}

fn pass_on(at: u32, sum: Sum) {
  for (var i = 0u; i < VALUES; i++) {
    let e = lane + i * LANES;
    if (OVERLAID) { // compiled
      tile[at + e / FN * PITCH_S + e % FN] = bitcast<u32>(sum[i]);
    } else {
      passed[at + e / FN * PITCH_S + e % FN] = sum[i];
    }
  }
}

fn received(at: u32) -> vec4<f32> {
  var v: vec4<f32>;
  if (OVERLAID) { // compiled
    v = bitcast<vec4<f32>>(vec4<u32>(tile[at], tile[at + 1u], tile[at + 2u], tile[at + 3u]));
  } else {
    v = vec4<f32>(passed[at], passed[at + 1u], passed[at + 2u], passed[at + 3u]);
  }
  return v;
}
