// What an export holds (engine/moebius/web/bundle.py): plan.json, the weights in GPU buffers, once for all editions, and a player of any of
// these.

import { possible } from "./editions.js";
import { Refused } from "./errors.js";
import { openDevice, OUT_OF_MEMORY, Player } from "./player.js";
import { checkEdition, checkEditions, checkPlan } from "./sound.js";
import { product } from "./tensors.js";
import { sha256, streamed } from "./weights.js";

export class Exported {
  // `source` is the address of plan.json; `progress(what, done, total)` hears of the download. The editions in it that can be here, but for
  // those whose names are in `without`, are `editions`.
  static async open(source, progress = () => {}, without = []) {
    const address = new URL(source, location.href);
    const plan = JSON.parse(new TextDecoder().decode(await fetched(address)));
    checkEditions(plan);
    const listed = plan.editions.filter(({ name }) => !without.includes(name));
    const { adapter, device } = await openDevice((adapter) => possible(listed, adapter).flatMap(({ features }) => features));
    checkPlan(plan, device.limits);
    const exported = new Exported(address, plan, adapter, device);
    exported.editions = possible(listed, { info: adapter.info, features: device.features });
    await exported.load(progress);
    return exported;
  }

  constructor(address, plan, adapter, device) {
    Object.assign(this, { address, plan, adapter, device, lost: null });
    device.lost.then((info) => {
      this.lost = info.message || info.reason;
    });
  }

  async load(progress) {
    const { plan, device } = this;
    const use = GPUBufferUsage;
    device.pushErrorScope("out-of-memory");
    this.weights = plan.weights.map(({ size }) => device.createBuffer({ size, usage: use.STORAGE | use.COPY_SRC | use.COPY_DST }));
    if (await device.popErrorScope()) throw new Refused(OUT_OF_MEMORY);
    const parts = plan.weights.map(({ at, size }, i) => ({ at, size, buffer: this.weights[i] }));
    this.arrays = {};
    for (const [name, { at, type, shape }] of Object.entries(plan.arrays)) {
      const data = new { float32: Float32Array, uint8: Uint8Array }[type](product(shape));
      this.arrays[name] = { data, shape };
      parts.push({ at, size: data.byteLength, host: new Uint8Array(data.buffer) });
    }
    parts.sort((a, b) => a.at - b.at);
    await streamed(new URL(plan.binary.file, this.address), plan.binary, parts, device, progress);
    if (this.lost) throw this.loss();
  }

  // A player of one of `editions`, ready to run.
  async player(about, progress = () => {}) {
    const bytes = await inflated(await fetched(new URL(about.file, this.address)));
    if ((await sha256(bytes)) !== about.sha256) {
      throw new Refused(`${about.file} has another SHA-256 than in plan.json; load the page again, or export it again.`);
    }
    const edition = JSON.parse(new TextDecoder().decode(bytes));
    checkEdition(about.file, edition, this.plan.weights, this.device.limits);
    const player = new Player(this, about, edition);
    try {
      await player.compile(progress);
    } catch (error) {
      player.close();
      throw error;
    }
    return player;
  }

  loss() {
    return new Refused(`The graphics adapter was lost (${this.lost}); close other tabs that use it and load the page again.`);
  }
}

// What is in a gzipped file. Some servers say that it is gzipped, and then the browser has looked into it already.
async function inflated(bytes) {
  const [a, b] = new Uint8Array(bytes, 0, Math.min(2, bytes.byteLength));
  if (a !== 0x1f || b !== 0x8b) return bytes;
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer().catch(() => new ArrayBuffer(0));
}

// From the server every time, where nothing is new in few bytes: a file of an older export does not fit newer weights.
async function fetched(address) {
  const answer = await fetch(address, { cache: "no-cache" }).catch((error) => ({ ok: false, status: error.message }));
  if (!answer.ok) throw new Refused(`${address.pathname.split("/").at(-1)} could not be loaded (${answer.status}); serve the whole exported folder.`);
  return answer.arrayBuffer();
}
