// flags[slot] = 1 when any of the `count` words of x is a NaN or an infinity, or, of 16 bits a number, has one in its lower or its upper part.
// The test reads bits: see guided_ddim.
// Grid: flat, every thread strides over x. Not part of a plan; run after each dispatch when an op is hunted.

const SIZE: u32 = 64u;

struct Params {
  count: u32,
  slot: u32,
  low: u32, // bits of a number in a word that are all set where it is none
  high: u32, // of the other one, where a word has two
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> flags: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  for (var i = id.x; i < params.count; i += groups.x * SIZE) {
    if ((x[i] & params.low) == params.low || (x[i] & params.high) == params.high) {
      atomicStore(&flags[params.slot], 1u);
    }
  }
}
