// The engine's own noise (engine/moebius/model/noise.py, `Portable`), bit for bit: NumPy's PCG64 and a Box-Muller of +, -, ×, / and √.

const LOW32 = 0xffffffffn;
const LOW64 = (1n << 64n) - 1n;
const LOW128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

export class Portable {
  // `seed` is an integer from 0 up, a number or a BigInt.
  constructor(seed, constants) {
    this.constants = constants;
    const words = seeded(BigInt(seed));
    this.increment = (((words[2] << 64n) | words[3]) << 1n | 1n) & LOW128;
    this.state = (this.increment + ((words[0] << 64n) | words[1])) & LOW128;
    this.step();
  }

  step() {
    this.state = (this.state * MULTIPLIER + this.increment) & LOW128;
  }

  // The next 53 random bits, as a number.
  bits() {
    this.step();
    const mixed = (this.state >> 64n) ^ (this.state & LOW64);
    const turn = this.state >> 122n;
    return Number((((mixed >> turn) | (mixed << (64n - turn))) & LOW64) >> 11n);
  }

  draw(count) {
    const out = new Float32Array(count);
    for (let i = 0; i < count; i += 2) {
      const u = (this.bits() + 1) * 2 ** -53;
      const v = this.bits() * 2 ** -53;
      const radius = Math.sqrt(-2 * logarithm(u, this.constants));
      const [cosine, sine] = turn(v, this.constants);
      out[i] = radius * cosine;
      if (i + 1 < count) out[i + 1] = radius * sine;
    }
    return out;
  }
}

// NumPy's SeedSequence(seed).generate_state(4, uint64), NEP 19: a pool of four words, mixed with each other.
function seeded(seed) {
  const entropy = [];
  for (let rest = seed; rest > 0n || !entropy.length; rest >>= 32n) entropy.push(Number(rest & LOW32));
  const multiply = (a, b) => Math.imul(a, b) >>> 0;
  const fold = (x) => (x ^ (x >>> 16)) >>> 0;
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value = (value ^ constant) >>> 0;
    constant = multiply(constant, 0x931e8875);
    return fold(multiply(value, constant));
  };
  const mix = (a, b) => fold((multiply(a, 0xca01f9dd) - multiply(b, 0x4973f715)) >>> 0);
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hash(word));
  constant = 0x8b51f9dd;
  const words = [];
  for (let i = 0; i < 8; i++) {
    const value = (pool[i % 4] ^ constant) >>> 0;
    constant = multiply(constant, 0x58f38ded);
    words.push(BigInt(fold(multiply(value, constant))));
  }
  return [0, 2, 4, 6].map((i) => words[i] | (words[i + 1] << 32n));
}

// ln x: with x = m·2^e and √½ ≤ m < √2, e·ln 2 + 2·artanh s and s = (m-1)/(m+1). Math.log may differ from one browser to another.
function logarithm(x, { LN2, LOG_DEGREE }) {
  let [m, e] = [x, 0];
  while (m < 0.5) {
    m *= 2;
    e--;
  }
  while (m >= 1) {
    m /= 2;
    e++;
  }
  if (m < Math.SQRT1_2) {
    m *= 2;
    e--;
  }
  const s = (m - 1) / (m + 1);
  const square = s * s;
  let series = 1 / LOG_DEGREE;
  for (let k = LOG_DEGREE - 2; k > 0; k -= 2) series = series * square + 1 / k;
  return e * LN2[0] + (2 * s * series + e * LN2[1]);
}

// cos 2πv and sin 2πv: Taylor series within an eighth of a turn of the nearest quarter.
function turn(v, { TURN_DEGREE }) {
  const quarter = Math.floor(4 * v + 0.5);
  const x = (4 * v - quarter) * (Math.PI / 2);
  const square = x * x;
  let [cosine, sine] = [1, 1];
  for (let k = TURN_DEGREE; k > 0; k -= 2) {
    cosine = 1 - (cosine * square) / (k * (k - 1));
    sine = 1 - (sine * square) / (k * (k + 1));
  }
  sine *= x;
  const [c, s] = quarter % 2 === 1 ? [-sine, cosine] : [cosine, sine];
  return Math.floor(quarter / 2) % 2 === 1 ? [-c, -s] : [c, s];
}
