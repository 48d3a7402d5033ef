// weights.bin into GPU buffers as it arrives, by way of Cache Storage where there is room: it is never in memory as a whole.

import { Refused } from "./errors.js";

const CACHE = "moebius-webgpu";
const IN_FLIGHT = 64 << 20; // bytes given to the GPU's queue before it is waited for

// `parts`, in the order of their `at`, have a `buffer` of the GPU or a `host` array to be filled.
export async function streamed(address, binary, parts, device, progress) {
  const { body, cached } = await opened(address, binary, progress);
  const sink = new Sink(parts, device);
  let done = 0;
  for (const reader = body.getReader(); ; ) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      throw new Refused(`The download of the weights was cut after ${done} of ${binary.size} bytes (${error.message}); load the page again.`);
    }
    if (piece.done) break;
    done += piece.value.length;
    if (done > binary.size) break;
    await sink.take(piece.value);
    progress(cached ? "Reading weights" : "Downloading weights", done, binary.size);
  }
  if (done !== binary.size) {
    await forgotten();
    throw new Refused(`${binary.file} has ${done} bytes and not the ${binary.size} of plan.json; load the page again, or export it again.`);
  }
}

export async function forgotten() {
  if (globalThis.caches) await caches.delete(CACHE);
}

// The content of the file under its checksum from the cache, put there first when it fits; else straight from the server.
async function opened(address, binary, progress) {
  const key = new URL(address);
  key.searchParams.set("sha256", binary.sha256);
  const cache = await caches.open(CACHE).catch(() => null);
  let kept = await cache?.match(key).catch(() => null);
  if (!kept && cache && (await room(binary.size))) {
    try {
      for (const old of await cache.keys()) {
        if (new URL(old.url).pathname === key.pathname) await cache.delete(old); // of an export before this one
      }
      await cache.put(key, counted(await answerTo(key, binary, "no-store"), binary.size, progress));
      kept = await cache.match(key);
    } catch (error) {
      if (error instanceof Refused) throw error;
      console.warn("The weights are not cached:", error.message); // no room after all, or private browsing: go on without
    }
  }
  return kept ? { body: kept.body, cached: true } : { body: (await answerTo(key, binary)).body, cached: false };
}

async function room(size) {
  const { quota = Infinity, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {};
  return quota - usage > 1.1 * size;
}

async function answerTo(address, binary, httpCache = "default") {
  const answer = await fetch(address, { cache: httpCache }).catch((error) => ({ ok: false, status: error.message }));
  if (!answer.ok) throw new Refused(`${binary.file} could not be loaded (${answer.status}); serve the whole exported folder.`);
  return answer;
}

function counted(answer, total, progress) {
  let done = 0;
  const counter = new TransformStream({
    transform(piece, controller) {
      done += piece.length;
      progress("Downloading weights", done, total);
      controller.enqueue(piece);
    },
  });
  return new Response(answer.body.pipeThrough(counter));
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
