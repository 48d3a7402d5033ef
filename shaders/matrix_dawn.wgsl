// Matrix units as Dawn has them (chromium-experimental-subgroup-matrix): the primitives of gemm_matrix.wgsl and lambda_matrix.wgsl.

diagnostic(off, chromium.subgroup_matrix_uniformity);
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;

alias Halves = f16; // an element of a tile
const PER: u32 = 1u; // halves in one
const PAIRED: bool = false; // vec2<f16>: stores of four bytes, where a matrix may be loaded of pairs
const WIDE: bool = false; // vec4<u32>: of sixteen, where it may be loaded of those; sums are then passed in vec4 too
alias Passed = f32;
const FLOATS: u32 = 1u; // in one of those
const OVERLAID: bool = false; // WIDE: sums are passed where the tile was
alias Left = subgroup_matrix_left<f16, FK, FM>;
alias Right = subgroup_matrix_right<f16, FN, FK>;
alias Sum = subgroup_matrix_result<f32, FN, FM>;

// Whether LANES neighbours are one subgroup.
fn is_subgroup(thread: u32) -> bool {
  let lowest = subgroupMin(thread); // both before any `&&`, behind which not all threads would come
  let highest = subgroupMax(thread);
  return lowest == thread / LANES * LANES && highest == lowest + LANES - 1u;
}

fn as_halves(v: vec4<f32>) -> vec2<u32> {
  return bitcast<vec2<u32>>(vec4<f16>(v));
}

fn place(at: u32, v: vec4<u32>) {
  if (WIDE) { // compiled
    tile[at / PER] = v;
  } else {
    for (var i = 0u; i < 4u; i++) { // unroll
      let pair = bitcast<vec2<f16>>(v[i]);
      if (PAIRED) { // compiled
        tile[at / PER + i] = pair;
      } else {
        tile[at + 2u * i] = pair.x;
        tile[at + 2u * i + 1u] = pair.y;
      }
    }
  }
}

fn load_left(at: u32, pitch: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&tile, at / PER, pitch / PER);
}

fn load_right(at: u32, pitch: u32) -> Right {
  return subgroupMatrixLoad<Right, row_major>(&tile, at / PER, pitch / PER);
}

fn multiply_add(x: Left, y: Right, sum: Sum) -> Sum {
  return subgroupMatrixMultiplyAccumulate(x, y, sum);
}

fn pass_on(at: u32, sum: Sum) {
  if (OVERLAID) { // compiled
    subgroupMatrixStore<row_major>(&tile, at / FLOATS, sum, PITCH_S / FLOATS);
  } else {
    subgroupMatrixStore<row_major>(&passed, at / FLOATS, sum, PITCH_S / FLOATS);
  }
}

fn received(at: u32) -> vec4<f32> {
  var v: vec4<f32>;
  if (OVERLAID) { // compiled
    v = bitcast<vec4<f32>>(tile[at / FLOATS]);
  } else {
    if (WIDE) { // compiled
      v = passed[at / FLOATS];
    } else {
      v = vec4<f32>(passed[at], passed[at + 1u], passed[at + 2u], passed[at + 3u]);
    }
  }
  return v;
}
