// The page against the native run: the same window, noise and settings, and how far every tensor lies from what was written
// down at export. The fingerprint is a column of `moebius compare` (engine/moebius/check/compare/fingerprint.py).

import { described } from "./editions.js";
import { draws, sample } from "./inpaint.js";
import { cut, pasted, toBytes } from "./pixels.js";
import { sha256 } from "./weights.js";

export async function selfCheck(player, hear = () => {}) {
  const { plan, arrays } = player;
  const { settings, window } = plan.check;
  const { constants } = plan;
  const array = (name) => arrays[name].data;
  const began = performance.now();
  const noise = Object.fromEntries(["image", "masked", "start", "offset"].map((name) => [name, array(`noise ${name}`)]));
  const got = {};
  const keep = (name, data) => (got[name] = data);
  const { latents, decoded } = await sample(player, array("x"), array("m"), settings, { noise, hear, keep, taps: true });
  got.latents = latents;
  const photo = pictureOf(arrays.photo);
  const result = { data: toBytes(decoded), width: window.size, height: window.size };
  const picture = pasted(photo, maskOf(arrays.mask), result, window, settings.blend, constants);

  const drawn = draws(settings.seed ?? plan.defaults.seed, plan.config, constants);
  const scaled = cut(photo, maskOf(arrays.mask), window, constants);
  const rows = [];
  for (const [name, { data: want, shape }] of Object.entries(arrays)) {
    if (name in got) {
      rows.push({ name, ...errors(got[name], want, shape) }); // of modules: of samples
    }
  }
  const painted = errors(result.data, array("picture"), [1, ...arrays.picture.shape]);
  const distance = distances(result.data, array("picture"), array("m"));
  return {
    ok: isWithin(distance, player.about.bound),
    edition: player.about,
    distance,
    different: result.data.reduce((n, v, i) => n + (v !== array("picture")[i]), 0) / result.data.length,
    noiseIsSame: Object.entries(noise).every(([name, want]) => want.every((v, i) => Object.is(v, drawn[name][i]))),
    windowIsSame: scaled.m.every((v, i) => v === array("m")[i]) && scaled.x.every((v, i) => Math.abs(v - array("x")[i]) < 1e-6),
    rows,
    painted: result,
    picture,
    seconds: (performance.now() - began) / 1000,
    outputs: [
      { name: "latents", ...(await withChecksum(errors(latents, array("latents"), arrays.latents.shape), latents)) },
      { name: "picture", ...(await withChecksum(painted, result.data)) },
    ],
  };
}

// In grey levels: the most that a value of the picture differs by, as the model makes it, the mean in the hole, and the hole's PSNR.
export function distances(got, want, m) {
  let [levels, sum, squares, values] = [0, 0, 0, 0];
  for (let i = 0; i < want.length; i++) {
    const difference = Math.abs(got[i] - want[i]);
    levels = Math.max(levels, difference);
    if (!m[Math.floor(i / 3)]) continue;
    sum += difference;
    squares += difference * difference;
    values++;
  }
  return { levels, mean: sum / values, psnr: 10 * Math.log10(255 ** 2 / (squares / values)) };
}

// `bound` has those of the three that an edition is held to.
export function isWithin({ levels, mean, psnr }, bound) {
  return levels <= (bound.levels ?? Infinity) && mean <= (bound.mean ?? Infinity) && psnr >= (bound.psnr ?? 0);
}

export const pictureOf = ({ data, shape: [height, width] }) => ({ data, width, height });
export const maskOf = pictureOf;

// ERRORS of the fingerprint, but for the checksum. An ULP is that of the larger of the value and the tensor's rms.
export function errors(got, want, shape) {
  const norm = Math.sqrt(want.reduce((sum, v) => sum + v * v, 0));
  const rms = norm / Math.sqrt(want.length) || 1;
  const row = { shape, rms, limit: null };
  if (!got.every(Number.isFinite)) return { ...row, max_ulp: null, relative_l2: null, bias: null, max_abs: null };
  let [squares, sum, max_abs, max_ulp] = [0, 0, 0, 0];
  for (let i = 0; i < want.length; i++) {
    const difference = got[i] - want[i];
    squares += difference * difference;
    sum += difference;
    max_abs = Math.max(max_abs, Math.abs(difference));
    max_ulp = Math.max(max_ulp, Math.abs(difference) / ulp(Math.max(Math.abs(want[i]), rms)));
  }
  return { ...row, max_ulp, relative_l2: Math.sqrt(squares) / (norm || Math.sqrt(want.length)), bias: sum / want.length / rms, max_abs };
}

const scratch = new DataView(new ArrayBuffer(8));

// 2^(⌊log2 x⌋ - 23), by the exponent's bits: Math.log2 rounds.
function ulp(x) {
  scratch.setFloat64(0, Math.max(x, 2 ** -126));
  return 2 ** (((scratch.getUint32(0) >>> 20) & 0x7ff) - 1023 - 23);
}

async function withChecksum(row, values) {
  const floats = Float32Array.from(values, (v) => v + 0); // -0 + 0 is 0
  return { ...row, checksum: (await sha256(floats)).slice(0, 16) };
}

// The file for `moebius compare`; `png` is the checked picture as base64.
export function fingerprint(player, checked, png) {
  const { plan, adapter, device } = player;
  const info = adapter.info ?? {};
  const agent = navigator.userAgentData?.brands?.findLast?.((b) => !/not/i.test(b.brand)) ?? {};
  const [, family, version] = /(Firefox|Edg|Chrome|Version)\/([\d.]+)/.exec(navigator.userAgent) ?? [];
  const browser = agent.brand ?? { Edg: "Edge", Version: "Safari" }[family] ?? family ?? "browser";
  const how = described(checked.edition);
  const limits = {};
  for (const key in device.limits) {
    const name = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`); // as Python's wgpu names them
    if (Number.isSafeInteger(device.limits[key])) limits[name] = device.limits[key];
  }
  const device_ = [info.vendor, info.architecture, info.device, info.description].filter(Boolean).join(" ") || "unnamed adapter";
  return {
    ...plan.check.fingerprint, // its format and version
    moebius: plan.moebius,
    made: new Date().toISOString().slice(0, 19) + "Z",
    machine: { system: navigator.userAgentData?.platform || navigator.platform || "", cores: String(navigator.hardwareConcurrency ?? "") },
    set: "default",
    columns: [
      {
        name: `${device_}, ${browser} ${agent.version ?? version ?? ""}`.trim() + (how === described({ precision: "f32" }) ? "" : `, ${how}`),
        implementation: browser.toLowerCase(),
        adapter: { device: device_, vendor: info.vendor ?? "", driver: info.description ?? "", backend: "WebGPU", type: info.isFallbackAdapter ? "CPU" : "" },
        limits,
        features: [...device.features].sort(),
        versions: { [browser.toLowerCase()]: agent.version ?? version ?? "" },
        shaders: plan.check.shaders,
        status: "done",
        seconds: checked.seconds,
        ops: [],
        runs: [
          {
            name: plan.check.name,
            model: plan.model,
            settings: plan.check.settings,
            inputs: plan.check.inputs,
            status: "done",
            seconds: { all: checked.seconds },
            trace: [],
            outputs: checked.outputs,
            picture: png,
          },
        ],
      },
    ],
  };
}
