// Matrix units as Dawn has them (chromium-experimental-subgroup-matrix): what gemm_matrix.wgsl's primitives are there.

diagnostic(off, chromium.subgroup_matrix_uniformity);
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias Halves = f16; // an element of a tile
const PER: u32 = 1u; // halves in one
const PAIRED: bool = false; // vec2<f16>: stores of four bytes, where a matrix may be loaded of pairs
alias Left = subgroup_matrix_left<f16, FK, FM>;
alias Right = subgroup_matrix_right<f16, FN, FK>;
alias Sum = subgroup_matrix_result<f32, FN, FM>;

// Whether LANES neighbours are one subgroup.
fn is_subgroup(thread: u32) -> bool {
  let lowest = subgroupMin(thread); // both before any `&&`, behind which not all threads would come
  let highest = subgroupMax(thread);
  return lowest == thread / LANES * LANES && highest == lowest + LANES - 1u;
}

fn place(at: u32, v: vec4<f32>) {
  let h = vec4<f16>(v);
  if (PAIRED) { // compiled
    tile[at / PER] = h.xy;
    tile[at / PER + 1u] = h.zw;
  } else {
    tile[at] = h.x;
    tile[at + 1u] = h.y;
    tile[at + 2u] = h.z;
    tile[at + 3u] = h.w;
  }
}

fn load_left(at: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&tile, at / PER, PITCH_A / PER);
}

fn load_right(at: u32) -> Right {
  return subgroupMatrixLoad<Right, row_major>(&tile, at / PER, PITCH_W / PER);
}

fn multiply_add(x: Left, y: Right, sum: Sum) -> Sum {
  return subgroupMatrixMultiplyAccumulate(x, y, sum);
}

fn pass_on(at: u32, sum: Sum) {
  subgroupMatrixStore<row_major>(&passed, at, sum, FN);
}
