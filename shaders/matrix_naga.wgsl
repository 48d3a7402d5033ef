// Matrix units as naga has them (cooperative matrices): the primitives of gemm_matrix.wgsl and lambda_matrix.wgsl. A type's name has
// columns before rows.

enable f16;
enable wgpu_cooperative_matrix;

alias Halves = f16; // an element of a tile
const PER: u32 = 1u; // halves in one
alias Passed = f32;
const FLOATS: u32 = 1u; // in one of those
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

// Whether LANES neighbours are one subgroup.
fn is_subgroup(thread: u32) -> bool {
  let lowest = subgroupMin(thread);
  let highest = subgroupMax(thread);
  return lowest == thread / LANES * LANES && highest == lowest + LANES - 1u;
}

fn as_halves(v: vec4<f32>) -> vec2<u32> {
  return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
}

fn place(at: u32, v: vec4<u32>) {
  for (var i = 0u; i < 4u; i++) { // unroll
    let pair = vec2<f16>(unpack2x16float(v[i]));
    tile[at + 2u * i] = pair.x;
    tile[at + 2u * i + 1u] = pair.y;
  }
}

fn load_left(at: u32, pitch: u32) -> Left {
  return coopLoadT<Left>(&tile[at], pitch);
}

fn load_right(at: u32, pitch: u32) -> Right {
  return coopLoadT<Right>(&tile[at], pitch);
}

fn multiply_add(x: Left, y: Right, sum: Sum) -> Sum {
  return coopMultiplyAdd(x, y, sum);
}

// Of arguments alone: naga 29 stores before it has made what is computed in the call.
fn pass_on(at: u32, sum: Sum) {
  coopStoreT(sum, &passed[at], PITCH_S);
}

fn received(at: u32) -> vec4<f32> {
  return vec4<f32>(passed[at], passed[at + 1u], passed[at + 2u], passed[at + 3u]);
}
