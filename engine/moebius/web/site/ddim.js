// The schedule (engine/moebius/model/scheduler.py): DDIM as the published model samples. `sinusoid` is engine/moebius/model/arrays.py's.

export class DDIM {
  constructor({ TRAIN_STEPS, BETA_START, BETA_END }) {
    this.trainSteps = TRAIN_STEPS;
    this.kept = new Float64Array(TRAIN_STEPS); // ā_t
    const [first, last] = [Math.sqrt(BETA_START), Math.sqrt(BETA_END)];
    let product = 1;
    for (let t = 0; t < TRAIN_STEPS; t++) {
      product *= 1 - (first + (t * (last - first)) / (TRAIN_STEPS - 1)) ** 2;
      this.kept[t] = product;
    }
  }

  // (N-1)·r … 0 with r = ⌊TRAIN_STEPS/N⌋, the last ⌊N·strength⌋ of them.
  timesteps(steps, strength) {
    const used = Math.min(Math.trunc(steps * strength), steps);
    const stride = Math.floor(this.trainSteps / steps);
    return Array.from({ length: used }, (_, i) => (used - 1 - i) * stride);
  }

  // A row a timestep: √ā_t, √(1-ā_t), √ā_p, √(1-ā_p), where p is the timestep before and ā_p = 1 below zero.
  coefficients(times, steps) {
    const stride = Math.floor(this.trainSteps / steps);
    return times.map((t) => {
      const [at, ap] = [this.kept[t], t >= stride ? this.kept[t - stride] : 1];
      return [Math.sqrt(at), Math.sqrt(1 - at), Math.sqrt(ap), Math.sqrt(1 - ap)];
    });
  }
}

// The rows of the time table: cosines, then sines, of t·exp(-ln(TEMB_MAX_PERIOD)·i/half).
export function sinusoid(times, width, { TEMB_MAX_PERIOD }) {
  const half = width / 2;
  const table = new Float32Array(times.length * width);
  times.forEach((t, row) => {
    for (let i = 0; i < half; i++) {
      const angle = t * Math.exp((-Math.log(TEMB_MAX_PERIOD) * i) / half);
      table[row * width + i] = Math.cos(angle);
      table[row * width + half + i] = Math.sin(angle);
    }
  });
  return table;
}
