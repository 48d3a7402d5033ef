// The end of kernels that have whole rows in a workgroup: out = sum + residual, and the variance of every row, for the layer norm behind.
//
// Rows of residual and out are HEADS·v_dim floats in `pitch`; a thread stores vec4 of a head, of which the last may have fewer channels.
// WHOLE, Number, HEADS, residual, out, variance and params are those of the file that includes it.

// include moments.wgsl

// Channels that a thread has stored: how many, and of what each is beyond the first of them the sum and the sum of squares. So the variance
// does not cancel.
struct Stored {
  n: f32,
  shift: f32,
  sum: f32,
  squares: f32,
}

// Stores `channels` of a sum, with those of the residual from the float `source` on, from the float `to` on, where the row `is_there`.
// `begins`: they are the first of this thread's.
fn put(before: Stored, begins: bool, sum: vec4<f32>, to: u32, source: u32, channels: u32, is_there: bool) -> Stored {
  var stored = before;
  if (WHOLE) { // compiled
    let y = sum + residual[source / 4u];
    if (begins) {
      stored.shift = y.x;
    }
    let off = y - stored.shift;
    stored.sum += off.x + off.y + off.z + off.w;
    stored.squares += dot(off, off);
    if (is_there) {
      out[to / 4u] = y;
    }
  } else {
    for (var i = 0u; i < 4u; i++) { // unroll
      if (i < channels) {
        let y = sum[i] + residual[source + i];
        if (begins && i == 0u) {
          stored.shift = y;
        }
        stored.sum += y - stored.shift;
        stored.squares += (y - stored.shift) * (y - stored.shift);
        if (is_there) {
          out[to + i] = y;
        }
      }
    }
  }
  stored.n += f32(channels);
  return stored;
}

// n, mean, M2.
fn moments_of(x: Stored) -> vec4<f32> {
  return vec4<f32>(x.n, x.shift + x.sum / x.n, x.squares - x.sum * (x.sum / x.n), 0.0);
}

// What a row has besides: the variance of `all` its channels, and zeros in its padding.
fn end_row(row: u32, all: vec3<f32>) {
  variance[row] = vec4<f32>(all.z / all.x, 0.0, 0.0, 0.0);
  if (!WHOLE) { // compiled
    for (var c = HEADS * params.v_dim; c < params.pitch; c++) {
      out[row * params.pitch + c] = 0.0;
    }
  }
}
