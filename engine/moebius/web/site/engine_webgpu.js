// The engine that computes in this browser, by WebGPU.

import { fingerprint, maskOf, pictureOf, selfCheck } from "./check.js";
import { inpaint } from "./inpaint.js";
import { openDevice, Player } from "./player.js";

export async function open(about, hear) {
  const opened = await openDevice();
  return new Engine(await Player.open("plan.json", opened, hear));
}

class Engine {
  constructor(player) {
    Object.assign(this, { player, running: Promise.resolve(), checking: null });
    this.lost = player.device.lost.then(() => player.loss());
  }

  model() {
    const { plan, arrays } = this.player;
    const mostSteps = plan.plans.step.rows;
    return {
      name: plan.model,
      where: "in this browser",
      note: plan.note,
      size: plan.config.size,
      bytes: plan.binary.size,
      defaults: plan.defaults,
      mostSteps,
      sample: { picture: pictureOf(arrays.photo), mask: maskOf(arrays.mask) },
    };
  }

  // A check that is under way makes room.
  async fill(picture, mask, settings, hear, signal) {
    this.checking?.abort();
    return this.alone(signal, () => {
      hear({ text: "Looking at the picture" });
      const pieces = new Map(); // by their windows, of those before as well
      return inpaint(this.player, picture, mask, settings, ({ step, steps, window, preview }) => {
        const { x, y, side } = window;
        const small = preview();
        if (small) pieces.set(window, { picture: small, x, y, width: side, height: side });
        hear({ step, steps, pieces: [...pieces.values()] });
      });
    });
  }

  // {...selfCheck's, fingerprint(png)}
  async check(hear, signal) {
    const mine = new AbortController();
    signal?.addEventListener("abort", () => mine.abort(signal.reason));
    this.checking = mine;
    const checked = await this.alone(mine.signal, () => selfCheck(this.player, hear));
    return { ...checked, fingerprint: (png) => fingerprint(this.player, checked, png) };
  }

  // One run at a time: they use the same buffers.
  alone(signal, run) {
    const { player } = this;
    const turn = this.running.then(async () => {
      signal?.throwIfAborted();
      player.signal = signal;
      try {
        return await run();
      } finally {
        player.signal = null;
      }
    });
    this.running = turn.catch(() => {});
    return turn;
  }
}
