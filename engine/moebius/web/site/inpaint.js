// A whole run in the order it happens: engine/moebius/inpaint/run.py's, for one seed, a window after the other.

import { DDIM, sinusoid } from "./ddim.js";
import { NotFinite, Refused } from "./errors.js";
import { Portable } from "./noise.js";
import { cut, isThin, putBack, toBytes } from "./pixels.js";
import { Preview } from "./preview.js";
import { product } from "./tensors.js";
import { windowsOf } from "./tiling.js";

// The four draws of a window, channels last, from one stream in this order; the stream itself has channels first.
export function draws(seed, config, constants) {
  return drawsOf(seed, config, constants, [{ index: 0, before: null }])[0];
}

// Those of one window after the other, from one stream. Windows of one island and size have the first one's, repeated beyond its borders:
// what two of them both see begins the same in both.
export function drawsOf(seed, { latent, channels }, constants, windows) {
  const source = new Portable(seed, constants);
  const field = (side) => {
    const drawn = source.draw(channels * side * side);
    const out = new Float32Array(drawn.length);
    for (let c = 0; c < channels; c++) for (let i = 0; i < side * side; i++) out[i * channels + c] = drawn[c * side * side + i];
    return out;
  };
  const found = [];
  for (const window of windows) {
    const drawn = { image: field(latent), masked: field(latent), start: field(latent), offset: field(1) };
    const first = window.before ? windows.findIndex((w) => w.index === window.index && w.side === window.side) : found.length;
    const [down, right] = [window.y - windows[first].y, window.x - windows[first].x].map((n) => toEven((n * latent) / window.side));
    const from = found[first];
    found.push(from ? { ...shifted(from, down, right, latent, channels), offset: from.offset } : drawn);
  }
  return found;
}

function shifted(from, down, right, latent, channels) {
  const index = (n) => ((n % latent) + latent) % latent;
  const shift = (field) => field.map((_, i) => {
    const [c, at] = [i % channels, Math.floor(i / channels)];
    return field[(index(Math.floor(at / latent) + down) * latent + index((at % latent) + right)) * channels + c];
  });
  return { image: shift(from.image), masked: shift(from.masked), start: shift(from.start) };
}

// To the nearest whole number, halves to the even one.
const toEven = (n) => (Math.abs(n % 1) === 0.5 ? 2 * Math.round(n / 2) : Math.round(n));

// `picture` with what `mask` marks filled in. `hear({step, steps, window, windows, preview})` is called after every step, and what it throws
// ends the run; steps are those of all windows together, and preview() is what the window would be if its own ended there, small.
export async function inpaint(player, picture, mask, settings = {}, hear = () => {}) {
  const { config, constants, defaults } = player.plan;
  const { size } = config;
  const blend = settings.blend ?? defaults.blend;
  const seed = settings.seed ?? defaults.seed;
  const windows = windowsOf(mask, size, constants);
  const modelled = windows.filter((window) => blend !== "match" || !isThin(mask, window, constants));
  const noises = drawsOf(seed, config, constants, modelled);
  const into = { ...picture, data: picture.data.slice() };
  for (const window of windows) {
    const n = modelled.indexOf(window);
    if (n < 0) {
      putBack(into, picture, mask, null, window, blend, constants);
      continue;
    }
    const { x, m } = cut(picture, mask, window, constants);
    const preview = new Preview(x, config);
    const { decoded } = await sample(player, x, m, settings, {
      noise: noises[n],
      keep: (name, data) => preview.keep(name, data),
      hear: ({ step, steps, row, from, to }) =>
        hear({
          step: n * steps + step,
          steps: modelled.length * steps,
          window,
          windows: modelled.length,
          preview: () => preview.picture(row, from, to),
        }),
    });
    const result = { data: toBytes(decoded), width: size, height: size };
    putBack(into, picture, mask, result, window, blend, constants, { part: settings.detail ?? defaults.detail, seed });
  }
  return into;
}

// x: the window from -1 to 1; m: its mask. `noise` takes the place of the draws. `keep(name, array)` receives what the
// native run wrote down, too, and `taps` has the modules' outputs fetched and kept as well.
export async function sample(player, x, m, settings, { noise, hear = () => {}, keep = () => {}, taps = false } = {}) {
  const { plan: { config, constants }, plans } = player;
  const { steps, guidance, strength, noise_offset, seed } = { ...player.plan.defaults, ...settings };
  const drawn = noise ?? draws(seed, config, constants);
  const scheduler = new DDIM(constants);
  const times = scheduler.timesteps(steps, strength);
  const rows = scheduler.coefficients(times, steps);
  const { encoder, step, decoder } = plans;
  if (!times.length || times.length > step.rows) throw new Refused(`This page takes 1 to ${step.rows} steps, and these settings make ${times.length}; choose others.`);
  const keepTaps = async (plan, replayed) => {
    for (const { path, data } of await replayed()) keep(`${plan}/${path}`, data);
  };

  // The posterior sample of a picture's latents: (mean + exp(½·log variance)·ε)·scaling.
  const [least, most] = constants.LOG_VARIANCE;
  const encoded = async (pixels, ε, name, first) => {
    player.write(encoder.inputs[0], pixels);
    const replayed = await player.replay("encoder", { taps: taps && first ? encoder.taps : [] });
    const moments = await player.read(encoder.outputs[0]);
    keep(name, moments);
    await keepTaps("encoder", replayed);
    return ε.map((e, i) => {
      const [c, at] = [i % config.channels, 2 * config.channels * Math.floor(i / config.channels)];
      const logvar = Math.min(most, Math.max(least, moments[at + config.channels + c]));
      return (moments[at + c] + Math.exp(0.5 * logvar) * e) * config.scaling;
    });
  };
  const start = drawn.start.map((n, i) => n + noise_offset * drawn.offset[i % config.channels]);
  let y = start;
  if (strength < 1) {
    const z = await encoded(x, drawn.image, "moments of the image", true);
    y = z.map((v, i) => rows[0][0] * v + rows[0][1] * start[i]);
  }
  const masked = await encoded(x.map((v, i) => v * (1 - m[Math.floor(i / 3)])), drawn.masked, "moments of the masked image", strength >= 1);
  const mask8 = new Float32Array(config.latent ** 2); // the first pixel of every cell
  for (let i = 0; i < mask8.length; i++) {
    mask8[i] = m[config.factor * (Math.floor(i / config.latent) * config.size + (i % config.latent))];
  }

  for (const [i, array] of [y, mask8, masked].entries()) player.write(step.inputs[i], array);
  const table = new Float32Array(product(step.sinusoid.shape));
  table.set(sinusoid(times, step.sinusoid.shape[3], constants));
  player.schedule("step", table, rows.flat(), guidance);
  await player.prologue("step");
  for (let i = 0; i < times.length; i++) {
    const replayed = await player.replay("step", { step: i, taps: taps && i === 0 ? step.taps : [] });
    const from = y;
    y = await player.read(step.inputs[0]);
    finite(y, "The latents");
    keep(`latents after step ${i + 1}`, y);
    await keepTaps("step", replayed);
    await hear({ step: i + 1, steps: times.length, row: rows[i], from, to: y });
  }

  player.write(decoder.inputs[0], y.map((v) => v / config.scaling));
  const replayed = await player.replay("decoder", { taps: taps ? decoder.taps : [] });
  const decoded = await player.read(decoder.outputs[0]);
  finite(decoded, "The picture");
  keep("decoded picture", decoded);
  await keepTaps("decoder", replayed);
  return { latents: y, decoded };
}

function finite(values, what) {
  if (!values.every(Number.isFinite)) throw new NotFinite(`${what} holds numbers that are not finite; please report this with the adapter's name.`);
}
