// A whole run in the order it happens: engine/moebius/inpaint/run.py's, for one window and one seed.

import { DDIM, sinusoid } from "./ddim.js";
import { Refused } from "./errors.js";
import { Portable } from "./noise.js";
import { product } from "./player.js";
import { Preview } from "./preview.js";
import { cut, isThin, pasted, toBytes, windowOf } from "./pixels.js";

// The four draws of a run, channels last, from one stream in this order; the stream itself has channels first.
export function draws(seed, { latent, channels }, constants) {
  const source = new Portable(seed, constants);
  const positions = latent * latent;
  const field = (count) => {
    const drawn = source.draw(channels * count);
    const out = new Float32Array(drawn.length);
    for (let c = 0; c < channels; c++) for (let i = 0; i < count; i++) out[i * channels + c] = drawn[c * count + i];
    return out;
  };
  return { image: field(positions), masked: field(positions), start: field(positions), offset: field(1) };
}

// `picture` with what `mask` marks filled in. `hear({step, steps, window, preview})` is called after every step, and what it throws ends
// the run; preview() is what the window would be if it ended there, small.
export async function inpaint(player, picture, mask, settings = {}, hear = () => {}) {
  const { config, constants, defaults } = player.plan;
  const { size } = config;
  const window = windowOf(mask, size, constants);
  if (!window) return picture;
  const blend = settings.blend ?? defaults.blend;
  if (blend === "match" && isThin(mask, window, constants)) return pasted(picture, mask, null, window, blend, constants);
  const { x, m } = cut(picture, mask, window, constants);
  const preview = new Preview(x, config);
  const { decoded } = await sample(player, x, m, settings, {
    keep: (name, data) => preview.keep(name, data),
    hear: ({ step, steps, row, from, to }) => hear({ step, steps, window, preview: () => preview.picture(row, from, to) }),
  });
  const result = { data: toBytes(decoded), width: size, height: size };
  return pasted(picture, mask, result, window, blend, constants, { part: settings.detail ?? defaults.detail, seed: settings.seed ?? defaults.seed });
}

// x: the window from -1 to 1; m: its mask. `noise` takes the place of the draws. `keep(name, array)` receives what the
// native run wrote down, too, and `taps` has the modules' outputs fetched and kept as well.
export async function sample(player, x, m, settings, { noise, hear = () => {}, keep = () => {}, taps = false } = {}) {
  const { config, constants, plans } = player.plan;
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
  const { queue } = player.device;
  const table = new Float32Array(product(step.sinusoid.shape));
  table.set(sinusoid(times, step.sinusoid.shape[3], constants));
  player.write(step.sinusoid, table);
  queue.writeBuffer(player.buffers[step.coefficients], 0, new Float32Array(rows.flat()));
  queue.writeBuffer(player.uniforms, step.guidance, new Float32Array([guidance]));
  await player.prologue("step");
  for (let i = 0; i < times.length; i++) {
    const replayed = await player.replay("step", { step: i, taps: taps && i === 0 ? step.taps : [] });
    const from = y;
    y = await player.read(step.inputs[0]);
    keep(`latents after step ${i + 1}`, y);
    await keepTaps("step", replayed);
    await hear({ step: i + 1, steps: times.length, row: rows[i], from, to: y });
  }
  if (!y.every(Number.isFinite)) throw new Refused("The result holds numbers that are not finite; please report this with the fingerprint below.");

  player.write(decoder.inputs[0], y.map((v) => v / config.scaling));
  const replayed = await player.replay("decoder", { taps: taps ? decoder.taps : [] });
  const decoded = await player.read(decoder.outputs[0]);
  keep("decoded picture", decoded);
  await keepTaps("decoder", replayed);
  return { latents: y, decoded };
}
