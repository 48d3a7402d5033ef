// Matrix units as naga has them (cooperative matrices): what gemm_matrix.wgsl's primitives are there. A type's name has columns before rows.

enable f16;
enable wgpu_cooperative_matrix;

alias Halves = f16; // an element of a tile
const PER: u32 = 1u; // halves in one
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

// Whether LANES neighbours are one subgroup.
fn is_subgroup(thread: u32) -> bool {
  let lowest = subgroupMin(thread);
  let highest = subgroupMax(thread);
  return lowest == thread / LANES * LANES && highest == lowest + LANES - 1u;
}

fn place(at: u32, v: vec4<f32>) {
  let h = vec4<f16>(v);
  tile[at] = h.x;
  tile[at + 1u] = h.y;
  tile[at + 2u] = h.z;
  tile[at + 3u] = h.w;
}

fn load_left(at: u32) -> Left {
  return coopLoadT<Left>(&tile[at], PITCH_A);
}

fn load_right(at: u32) -> Right {
  return coopLoadT<Right>(&tile[at], PITCH_W);
}

fn multiply_add(x: Left, y: Right, sum: Sum) -> Sum {
  return coopMultiplyAdd(x, y, sum);
}

// Of arguments alone: naga 29 stores before it has made what is computed in the call.
fn pass_on(at: u32, sum: Sum) {
  coopStoreT(sum, &passed[at], FN);
}
