// The schedule (engine/moebius/model/scheduler.py): DDIM as the published model samples.

const TRAIN_STEPS = 1000;
const BETAS = [0.00085, 0.012];

const kept = (() => {
  const [first, last] = BETAS.map(Math.sqrt);
  const products = new Float64Array(TRAIN_STEPS);
  let product = 1;
  for (let t = 0; t < TRAIN_STEPS; t++) {
    product *= 1 - (first + (t * (last - first)) / (TRAIN_STEPS - 1)) ** 2;
    products[t] = product; // ā_t
  }
  return products;
})();

// (N-1)·r … 0 with r = ⌊1000/N⌋, the last ⌊N·strength⌋ of them.
export function timesteps(steps, strength) {
  const used = Math.min(Math.trunc(steps * strength), steps);
  const stride = Math.floor(TRAIN_STEPS / steps);
  return Array.from({ length: used }, (_, i) => (used - 1 - i) * stride);
}

// A row a timestep: √ā_t, √(1-ā_t), √ā_p, √(1-ā_p), where p is the timestep before and ā_p = 1 below zero.
export function coefficients(times, steps) {
  const stride = Math.floor(TRAIN_STEPS / steps);
  return times.map((t) => {
    const [at, ap] = [kept[t], t >= stride ? kept[t - stride] : 1];
    return [Math.sqrt(at), Math.sqrt(1 - at), Math.sqrt(ap), Math.sqrt(1 - ap)];
  });
}

// The rows of the time table: cosines, then sines, of t·exp(-ln(10000)·i/half).
export function sinusoid(times, width) {
  const half = width / 2;
  const table = new Float32Array(times.length * width);
  times.forEach((t, row) => {
    for (let i = 0; i < half; i++) {
      const angle = t * Math.exp((-Math.log(10000) * i) / half);
      table[row * width + i] = Math.cos(angle);
      table[row * width + half + i] = Math.sin(angle);
    }
  });
  return table;
}
