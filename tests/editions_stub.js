// In place of exported.js, check.js and inpaint.js in tests of the engine: editions that behave as `stub.behaviour` says, by their names.

import { NotFinite, Refused } from "./errors.js";

export class Exported {
  static async open(source, hear, without) {
    const { stub } = globalThis;
    if (without.length) stub.tried.push(`opened without ${without}`);
    const exported = new Exported();
    exported.editions = stub.editions.filter(({ name }) => !without.includes(name));
    return exported;
  }

  plan = { model: "stub", note: "", config: { size: 1 }, binary: { size: 1 }, defaults: {} };
  arrays = { photo: null, mask: null };
  lost = null;

  async player(about) {
    globalThis.stub.tried.push(about.name);
    const how = globalThis.stub.behaviour[about.name];
    if (how === "lost") setTimeout(() => (this.lost = "gone"));
    if (how === "lost" || how === "refused") throw new Refused("It cannot be run.");
    const close = () => globalThis.stub.closed.push(about.name);
    return { about, how, close, plans: { step: { rows: 9 } }, device: { lost: new Promise(() => {}) }, loss: () => null };
  }
}

export async function selfCheck({ about, how }) {
  globalThis.stub.tried.push(`check ${about.name}`);
  if (how === "large") throw new NotFinite("too large");
  return { ok: how !== "wrong", run: globalThis.stub.tried.filter((what) => what.startsWith("check")).length };
}

export async function inpaint({ about, how }, picture, mask, { seed }) {
  if (how === "large") throw new NotFinite("too large");
  if (how === "wrong-run") throw new Error("another error");
  return `filled by ${about.name}, seed ${seed}`;
}

export const fingerprint = () => null;
export const maskOf = () => null;
export const pictureOf = () => null;
