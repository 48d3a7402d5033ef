// The engine behind `moebius serve`: pictures go to it as PNG, its jobs tell of themselves as server-sent events.

import { canvasOf, pictureOf } from "./bitmaps.js";
import { Refused } from "./errors.js";

const KEY = "moebius-token";
const AGAIN = { most: 5, after: 1000 }; // how often a stream of events that broke is opened again, and after how many milliseconds

export async function open({ api = "api/v1" }, hear) {
  const server = new Server(api, token());
  hear("Asking the server", 0, 1);
  return new Engine(server, await (await server.ask("model")).json());
}

// From behind the address's #, which is never sent; kept for this tab, and out of the address.
function token() {
  const [, given] = /[#&]token=([^&]+)/.exec(location.hash) ?? [];
  if (given) {
    sessionStorage.setItem(KEY, decodeURIComponent(given));
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}

class Server {
  constructor(api, token) {
    Object.assign(this, { api, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  }

  async ask(path, options = {}) {
    const answer = await fetch(`${this.api}/${path}`, { ...options, headers: this.headers }).catch((error) => {
      options.signal?.throwIfAborted();
      throw new Refused(`The server does not answer (${error.message}); see whether moebius serve still runs, and try again.`);
    });
    if (answer.ok) return answer;
    if (answer.status === 401) throw new Refused("The server wants its token; open the address that it printed, or its address with #token=TOKEN behind it.");
    const { message } = await answer.json().catch(() => ({}));
    const wait = answer.headers.get("Retry-After");
    throw new Refused(message ? message : `The server answered ${answer.status}${wait ? `; try again in ${wait} s` : ""}.`);
  }
}

class Engine {
  constructor(server, about) {
    Object.assign(this, { server, about, lost: new Promise(() => {}) });
  }

  model() {
    const { name, device, size, notes = [], defaults, limits } = this.about;
    return { name, where: `on ${device}`, note: notes.join(" "), size, bytes: null, defaults, mostSteps: limits?.steps ?? 100, sample: null };
  }

  async fill(picture, mask, settings, hear, signal) {
    hear({ text: "Sending the picture" });
    const form = new FormData();
    form.set("image", await png(picture), "image.png");
    form.set("mask", await png({ ...mask, data: grey(mask.data) }), "mask.png");
    for (const [name, value] of Object.entries(settings)) form.set(name, String(value));
    const { id } = await (await this.server.ask("jobs", { method: "POST", body: form, signal })).json();
    try {
      await this.followed(id, hear, signal);
      const answer = await this.server.ask(`jobs/${id}/result`, { signal });
      return await pixels(await answer.blob());
    } catch (error) {
      if (signal?.aborted) this.server.ask(`jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
      throw error;
    }
  }

  // Until the job is done; a stream that breaks is opened again, and tells where the job is.
  async followed(id, hear, signal) {
    for (let broken = 0; broken < AGAIN.most; broken++) {
      try {
        const { body } = await this.server.ask(`jobs/${id}/events?preview=patches`, { signal });
        for await (const [name, data] of events(body)) {
          broken = 0;
          if (name === "done") return;
          if (name === "error") throw new Refused(data.message);
          if (name === "cancelled") throw new Refused("The server cancelled this picture; fill it in once more.");
          if (name === "place") hear({ text: data.place ? `Waiting: ${data.place} of ${data.waiting} in the queue` : "Looking at the picture" });
          if (name === "step") hear({ step: data.step, steps: data.steps, pieces: data.patches && (await pieces(data.patches)) });
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof Refused) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN.after));
    }
    throw new Refused("The server's events broke off; see whether moebius serve still runs, and try again.");
  }

  async check() {
    return null;
  }
}

// [name, data] of every event in a stream of bytes.
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value.replaceAll("\r\n", "\n");
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const lines = text.slice(0, end).split("\n");
      const of = (field) => lines.filter((line) => line.startsWith(`${field}:`)).map((line) => line.slice(field.length + 1).trim()).join("\n");
      if (of("data")) yield [of("event") || "message", JSON.parse(of("data"))];
    }
  }
}

const pieces = (patches) =>
  Promise.all(patches.map(async ({ image, ...place }) => ({ ...place, picture: await createImageBitmap(await blobOf(image)) })));

// Of a data URL; fetch would need a wider content security policy.
async function blobOf(url) {
  const [, type, content] = /^data:([^;,]*);base64,(.*)$/s.exec(url);
  return new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], { type });
}

const png = (picture) => canvasOf(picture).convertToBlob({ type: "image/png" });
const grey = (mask) => {
  const data = new Uint8Array(3 * mask.length);
  for (let i = 0; i < mask.length; i++) if (mask[i]) data.fill(255, 3 * i, 3 * i + 3);
  return data;
};

async function pixels(blob) {
  return pictureOf(await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }));
}
