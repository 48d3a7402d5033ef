// Matrix units as naga has them (cooperative matrices): what gemm_matrix.wgsl's primitives are there.

enable f16;
enable wgpu_cooperative_matrix;

alias Halves = f16; // an element of a tile
const PER: u32 = 1u; // halves in one
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

// Whether LANES neighbours are one subgroup.
fn is_subgroup(thread: u32) -> bool {
  let first = subgroupMin(thread);
  let last = subgroupMax(thread);
  return first == thread / LANES * LANES && last == first + LANES - 1u;
}

fn put_left(at: u32, v: vec4<f32>) {
  let h = vec4<f16>(v);
  tile_a[at] = h.x;
  tile_a[at + 1u] = h.y;
  tile_a[at + 2u] = h.z;
  tile_a[at + 3u] = h.w;
}

fn put_right(at: u32, v: vec4<f32>) {
  let h = vec4<f16>(v);
  tile_w[at] = h.x;
  tile_w[at + 1u] = h.y;
  tile_w[at + 2u] = h.z;
  tile_w[at + 3u] = h.w;
}

fn load_left(at: u32) -> Left {
  return coopLoadT<Left>(&tile_a[at], PITCH_A);
}

fn load_right(at: u32) -> Right {
  return coopLoadT<Right>(&tile_w[at], PITCH_W);
}

fn multiply_add(x: Left, y: Right, sum: Sum) -> Sum {
  return coopMultiplyAdd(x, y, sum);
}

fn pass_on(at: u32, sum: Sum) {
  coopStoreT(sum, &passed[at], FN);
}
