// weights.bin into GPU buffers as it arrives, by way of Cache Storage where there is room: it is never in memory as a whole. Every piece of
// it is held against its SHA-256 before it goes anywhere, from the network and from the cache.

import { Refused } from "./errors.js";

const CACHE = "moebius-webgpu";
const IN_FLIGHT = 64 << 20; // bytes given to the GPU's queue before it is waited for

class Damaged extends Refused {}

// `parts`, in the order of their `at`, have a `buffer` of the GPU or a `host` array to be filled.
export async function streamed(address, binary, parts, device, progress) {
  for (let fresh = false; ; fresh = true) {
    const { body, cached } = await opened(address, binary, progress, fresh);
    try {
      return await poured(body, binary, new Sink(parts, device), (done) => progress(cached ? "Reading weights" : "Downloading weights", done, binary.size));
    } catch (error) {
      if (error instanceof Refused) await forgotten();
      if (!(error instanceof Damaged) || fresh) throw error; // once more, and from the server itself
    }
  }
}

async function poured(body, binary, sink, hear) {
  const guard = new Guard(binary);
  for (const reader = body.getReader(); ; ) {
    const piece = await reader.read().catch((error) => {
      throw new Refused(`The download of the weights was cut after ${guard.done} of ${binary.size} bytes (${error.message}); load the page again.`);
    });
    if (piece.done) break;
    for (const good of await guard.take(piece.value)) await sink.take(good);
    hear(guard.done);
  }
  for (const good of await guard.end()) await sink.take(good);
}

export async function sha256(bytes) {
  return Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)), (b) => b.toString(16).padStart(2, "0")).join("");
}

export async function forgotten() {
  if (globalThis.caches) await caches.delete(CACHE);
}

// The content of the file under its checksum from the cache, put there first when it fits; else straight from the server.
async function opened(address, binary, progress, fresh) {
  const key = new URL(address);
  key.searchParams.set("sha256", binary.sha256);
  const cache = await caches.open(CACHE).catch(() => null);
  let kept = await cache?.match(key).catch(() => null);
  if (!kept && cache && (await room(binary.size))) {
    const guard = new Guard(binary);
    try {
      for (const old of await cache.keys()) {
        if (new URL(old.url).pathname === key.pathname) await cache.delete(old); // of an export before this one
      }
      await cache.put(key, guarded(await answerTo(key, binary, "no-store"), guard, progress));
      kept = await cache.match(key);
    } catch (error) {
      if (guard.failure ?? error instanceof Refused) throw guard.failure ?? error; // nothing was put
      console.warn("The weights are not cached:", error.message); // no room after all, or private browsing: go on without
    }
  }
  return kept ? { body: kept.body, cached: true } : { body: (await answerTo(key, binary, fresh ? "reload" : "default")).body, cached: false };
}

async function room(size) {
  const { quota = Infinity, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  return quota - usage > 1.1 * size;
}

async function answerTo(address, binary, httpCache) {
  const answer = await fetch(address, { cache: httpCache }).catch((error) => ({ ok: false, status: error.message }));
  if (!answer.ok) throw new Refused(`${binary.file} could not be loaded (${answer.status}); serve the whole exported folder.`);
  return answer;
}

// An answer that breaks off where its content is not the one that was exported.
function guarded(answer, guard, progress) {
  const put = (controller) => (good) => good.forEach((piece) => controller.enqueue(piece));
  const through = new TransformStream({
    async transform(piece, controller) {
      await guard.take(piece).then(put(controller));
      progress("Downloading weights", guard.done, guard.binary.size);
    },
    flush: (controller) => guard.end().then(put(controller)),
  });
  return new Response(answer.body.pipeThrough(through));
}

// Bytes of any length in, the pieces of plan.json out, each after its SHA-256 was found to be right.
export class Guard {
  constructor(binary) {
    Object.assign(this, { binary, done: 0, next: 0, filled: 0, piece: null, failure: null });
  }

  async take(bytes) {
    this.done += bytes.length;
    if (this.done > this.binary.size) this.fail(this.length());
    const good = [];
    for (let at = 0; at < bytes.length; ) {
      this.piece ??= new Uint8Array(Math.min(this.binary.piece, this.binary.size - this.next * this.binary.piece));
      const part = bytes.subarray(at, at + this.piece.length - this.filled);
      this.piece.set(part, this.filled);
      this.filled += part.length;
      at += part.length;
      if (this.filled === this.piece.length && this.next < this.binary.pieces.length - 1) good.push(await this.checked());
    }
    return good;
  }

  // The last piece waits for the end, so that a file that is too long is called that.
  async end() {
    if (this.done !== this.binary.size) this.fail(this.length());
    return this.piece ? [await this.checked()] : [];
  }

  async checked() {
    const { piece, next } = this;
    if ((await sha256(piece)) !== this.binary.pieces[next]) {
      const first = next * this.binary.piece;
      const where = `bytes ${first} to ${first + piece.length - 1} have another SHA-256 than in plan.json`;
      this.fail(new Damaged(`${this.binary.file} is damaged (${where}); load the page again, or export it again.`));
    }
    Object.assign(this, { piece: null, filled: 0, next: next + 1 });
    return piece;
  }

  length() {
    return new Damaged(`${this.binary.file} has ${this.done} bytes and not the ${this.binary.size} of plan.json; load the page again, or export it again.`);
  }

  fail(error) {
    this.failure = error;
    throw error;
  }
}

// Bytes in order, of any length, to the parts that begin and end among them. GPU writes take multiples of four bytes.
export class Sink {
  constructor(parts, device) {
    Object.assign(this, { parts, device, at: 0, next: 0, rest: new Uint8Array(0), waiting: 0 });
  }

  async take(piece) {
    let bytes = piece;
    if (this.rest.length) {
      bytes = new Uint8Array(this.rest.length + piece.length);
      bytes.set(this.rest);
      bytes.set(piece, this.rest.length);
    }
    const whole = bytes.length & ~3; // every part begins and ends on a multiple of four
    this.rest = bytes.slice(whole);
    const end = this.at + whole;
    while (this.next < this.parts.length && this.parts[this.next].at < end) {
      const { at, size, buffer, host } = this.parts[this.next];
      const from = Math.max(at, this.at);
      const to = Math.min(at + size, end);
      const slice = bytes.subarray(from - this.at, to - this.at);
      if (buffer) this.device.queue.writeBuffer(buffer, from - at, slice);
      else host.set(slice, from - at);
      if (to < at + size) break;
      this.next++;
    }
    this.at = end;
    this.waiting += whole;
    if (this.waiting > IN_FLIGHT) {
      await this.device.queue.onSubmittedWorkDone();
      this.waiting = 0;
    }
  }
}
