// The engine that computes in this browser, by WebGPU: the quickest edition of the export that makes the right picture here.

import { fingerprint, maskOf, pictureOf, selfCheck } from "./check.js";
import { described } from "./editions.js";
import { NotFinite } from "./errors.js";
import { Exported } from "./exported.js";
import { inpaint } from "./inpaint.js";

export async function open(about, hear) {
  const failed = []; // editions that could not be run, or made another picture than they should
  for (;;) {
    const exported = await Exported.open("plan.json", hear, failed.map(({ name }) => name));
    for (const edition of exported.editions) {
      const tried = await attempt(exported, edition, hear);
      if (tried) return new Engine(exported, tried, failed);
      failed.push(edition);
      if (exported.lost) break; // and with it all its buffers
    }
  }
}

// {player, checked}, or null where something else is to be tried. What every browser has is checked when the page has been of use.
async function attempt(exported, edition, hear) {
  const isLast = edition === exported.editions.at(-1);
  let player = null;
  try {
    player = await exported.player(edition, hear);
    if (!edition.features.length) return { player, checked: null };
    const checked = await selfCheck(player, ({ step, steps }) => hear("Checking", step, steps));
    if (checked.ok) return { player, checked };
    player.close();
  } catch (error) {
    player?.close();
    if (isLast) throw error;
    console.warn(`In ${described(edition)}:`, error.message);
    await new Promise((resolve) => setTimeout(resolve)); // a device that was lost says so after what it was asked for has failed
  }
  return null;
}

class Engine {
  constructor(exported, { player, checked }, failed) {
    Object.assign(this, { exported, player, checked, failed, running: Promise.resolve(), checking: null });
    this.lost = player.device.lost.then(() => player.loss());
  }

  model() {
    const { exported, player, failed } = this;
    const { plan, arrays } = exported;
    const computed = described(player.about);
    const without = new Set(failed.map(described)); // matrix units of several shapes have one name
    const notes = [...without].map((other) => `In ${other} the page did not run in this browser, or not right, so it computes in ${computed}.`);
    return {
      name: plan.model,
      how: computed,
      where: "in this browser",
      note: [plan.note, ...notes].filter(Boolean).join(" "),
      size: plan.config.size,
      bytes: plan.binary.size,
      defaults: plan.defaults,
      mostSteps: player.plans.step.rows,
      sample: { picture: pictureOf(arrays.photo), mask: maskOf(arrays.mask) },
      files: exported.editions.map(({ file }) => file),
    };
  }

  // A check that is under way makes room.
  async fill(picture, mask, settings, hear, signal) {
    this.checking?.abort();
    return this.alone(signal, async () => {
      hear({ text: "Looking at the picture" });
      try {
        return await filled(this.player, picture, mask, settings, hear);
      } catch (error) {
        if (!(error instanceof NotFinite) || this.player.about === this.exported.editions.at(-1)) throw error;
      }
      return this.widest(signal, async (player) => {
        const result = await filled(player, picture, mask, settings, hear);
        const [tried, made] = [this.player, player].map(({ about }) => described(about));
        hear({ note: `Numbers of this picture were too large for ${tried}, so it was made in ${made}.` });
        return result;
      });
    });
  }

  // {...selfCheck's, fingerprint(png)}
  async check(hear, signal) {
    const mine = new AbortController();
    signal?.addEventListener("abort", () => mine.abort(signal.reason));
    this.checking = mine;
    const checked = this.checked ?? (await this.alone(mine.signal, () => selfCheck(this.player, hear)));
    this.checked = null; // who asks again wants it done again
    return { ...checked, fingerprint: (png) => fingerprint(this.player, checked, png) };
  }

  // One run at a time: they use the same buffers.
  alone(signal, run) {
    const turn = this.running.then(() => interruptible(this.player, signal, run));
    this.running = turn.catch(() => {});
    return turn;
  }

  // What `run` makes with the last edition, which takes the largest numbers; its memory is given back.
  async widest(signal, run) {
    const player = await this.exported.player(this.exported.editions.at(-1));
    try {
      return await interruptible(player, signal, () => run(player));
    } finally {
      player.close();
    }
  }
}

async function interruptible(player, signal, run) {
  signal?.throwIfAborted();
  player.signal = signal;
  try {
    return await run();
  } finally {
    player.signal = null;
  }
}

function filled(player, picture, mask, settings, hear) {
  const pieces = new Map(); // by their windows, of those before as well
  return inpaint(player, picture, mask, settings, ({ step, steps, window, preview }) => {
    const { x, y, side } = window;
    const small = preview();
    if (small) pieces.set(window, { picture: small, x, y, width: side, height: side });
    hear({ step, steps, pieces: [...pieces.values()] });
  });
}
