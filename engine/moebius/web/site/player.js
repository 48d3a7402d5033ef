// Replays recorded plans: buffers, pipelines and bind groups from plan.json (engine/moebius/web/bundle.py says what is in it), bytes
// from weights.bin. Knows nothing of pictures.

import { Refused } from "./errors.js";
import { streamed } from "./weights.js";

const SUBMIT_EVERY = 32; // dispatches a submit: a desktop's watchdog ends what runs for two seconds
const AHEAD = { quick: 8, slow: 1 }; // submits that may wait in the queue: what a run that is stopped has still to wait for
const SLOW = 20; // milliseconds that one of them takes

export async function openDevice() {
  if (!globalThis.isSecureContext) {
    throw new Refused("This page has no WebGPU because it was not loaded from https:// or localhost; serve it from one of the two.");
  }
  if (!navigator.gpu) {
    throw new Refused("This browser has no WebGPU; use a current Chrome, Edge or Safari, or Firefox on Windows or macOS.");
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new Refused("This browser has WebGPU but found no graphics adapter for it; update the graphics driver, or turn hardware acceleration on.");
  }
  try {
    return { adapter, device: await adapter.requestDevice() };
  } catch (error) {
    throw new Refused(`The graphics adapter could not be opened (${error.message}); close other tabs that use it and load the page again.`);
  }
}

export class Player {
  // `source` is the address of plan.json; `progress(what, done, total)` hears of the download and of the compiling.
  static async open(source, { adapter, device }, progress = () => {}) {
    const answer = await fetch(source, { cache: "no-cache" }); // a plan of an older export does not fit newer weights
    if (!answer.ok) throw new Refused(`${source} could not be loaded (${answer.status}); serve the whole exported folder.`);
    const player = new Player(await answer.json(), adapter, device);
    await player.load(new URL(player.plan.binary.file, new URL(source, location.href)), progress);
    await player.compile(progress);
    return player;
  }

  constructor(plan, adapter, device) {
    check(plan, device.limits);
    Object.assign(this, { plan, adapter, device, lost: null, signal: null, queued: [], ahead: AHEAD.slow });
    device.lost.then((info) => {
      this.lost = info.message || info.reason;
    });
    device.addEventListener("uncapturederror", (event) => {
      this.failed ??= event.error.message;
    });
  }

  // loading -----------------------------------------------------------------------------------------------------------

  async load(address, progress) {
    const { plan, device } = this;
    device.pushErrorScope("out-of-memory");
    const use = GPUBufferUsage;
    this.buffers = plan.buffers.map(({ size }) => device.createBuffer({ size, usage: use.STORAGE | use.COPY_SRC | use.COPY_DST }));
    this.uniforms = device.createBuffer({ size: plan.uniforms.size, usage: use.UNIFORM | use.COPY_DST });
    const none = await device.popErrorScope();
    if (none) throw new Refused(OUT_OF_MEMORY);

    const parts = [{ ...plan.uniforms, buffer: this.uniforms }];
    plan.buffers.forEach(({ at, size }, i) => at !== undefined && parts.push({ at, size, buffer: this.buffers[i] }));
    this.arrays = {};
    for (const [name, { at, type, shape }] of Object.entries(plan.arrays)) {
      const data = new { float32: Float32Array, uint8: Uint8Array }[type](product(shape));
      this.arrays[name] = { data, shape };
      parts.push({ at, size: data.byteLength, host: new Uint8Array(data.buffer) });
    }
    parts.sort((a, b) => a.at - b.at);
    await streamed(address, plan.binary, parts, device, progress);
    if (this.lost) throw this.loss();
  }

  // Every pipeline is asked for at once: browsers compile them beside each other.
  async compile(progress) {
    const { plan, device } = this;
    const modules = plan.modules.map((code) => device.createShaderModule({ code }));
    const types = { read: "read-only-storage", read_write: "storage", uniform: "uniform" };
    let done = 0;
    this.pipelines = await Promise.all(
      plan.pipelines.map(async ({ module, entry, access }) => {
        const entries = access.map((a, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type: types[a] } }));
        const layout = device.createBindGroupLayout({ entries });
        const pipeline = await device.createComputePipelineAsync({
          layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
          compute: { module: modules[module], entryPoint: entry },
        });
        progress("Compiling shaders", ++done, plan.pipelines.length);
        return { pipeline, layout, access };
      }),
    ).catch((error) => {
      throw this.lost ? this.loss() : new Refused(`A shader did not compile (${error.message}); update the browser or the graphics driver.`);
    });
    this.commands = {};
    for (const [name, { prologue, steps }] of Object.entries(plan.plans)) {
      this.commands[name] = { prologue: prologue.map((d) => this.command(d)), steps: steps.map((d) => this.command(d)) };
    }
  }

  command({ pipeline, grid, uniform, bind }) {
    const { layout, access, pipeline: compiled } = this.pipelines[pipeline];
    let next = 0;
    const entries = access.map((a, binding) => {
      if (a === "uniform") return { binding, resource: { buffer: this.uniforms, offset: uniform, size: this.plan.uniforms.pitch } };
      const [buffer, offset, size] = bind.slice(next, (next += 3));
      return { binding, resource: { buffer: this.buffers[buffer], offset, size } };
    });
    return { pipeline: compiled, grid, group: this.device.createBindGroup({ layout, entries }) };
  }

  // running -----------------------------------------------------------------------------------------------------------

  // A Float32Array, channels last, into a tensor, whose channels are padded to a multiple of four.
  write({ buffer, shape }, array) {
    const [channels, pitch, rows] = layoutOf(shape);
    if (array.length !== rows * channels) throw new Error(`${array.length} values do not fill ${shape}`);
    const padded = new Float32Array(rows * pitch);
    for (let row = 0; row < rows; row++) padded.set(array.subarray(row * channels, (row + 1) * channels), row * pitch);
    this.device.queue.writeBuffer(this.buffers[buffer], 0, padded);
  }

  async read(tensor) {
    return unpadded(await this.bytes(this.buffers[tensor.buffer], tensorBytes(tensor)), tensor);
  }

  async bytes(buffer, size) {
    const staging = this.device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
    this.device.queue.submit([encoder.finish()]);
    return this.fetched(staging);
  }

  async fetched(staging) {
    try {
      await staging.mapAsync(GPUMapMode.READ);
    } catch (error) {
      throw this.lost ? this.loss() : error;
    }
    const copy = staging.getMappedRange().slice(0);
    staging.destroy();
    if (this.failed) throw new Refused(`The graphics driver refused a command (${this.failed}); please report this with its name.`);
    return new Float32Array(copy);
  }

  // One replay; `signal`, an AbortSignal, ends it between two submits. `taps` are copied right behind the dispatch that makes them, before their memory is used again; what is
  // returned fetches them.
  async replay(name, { step = 0, taps = [] } = {}) {
    const { device } = this;
    const { state, carry = [] } = this.plan.plans[name];
    if (state !== undefined) device.queue.writeBuffer(this.buffers[state], 0, new Uint32Array([step]));
    const staged = taps.map((tap) => ({
      tap,
      buffer: device.createBuffer({ size: tap.size * tap.at.length, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST }),
    }));
    await this.submit(this.commands[name].steps, (encoder, dispatch) => {
      for (const { tap, buffer } of staged) {
        if (tap.dispatch !== dispatch) continue;
        tap.at.forEach((at, i) => encoder.copyBufferToBuffer(this.buffers[tap.buffer], at, buffer, i * tap.size, tap.size));
      }
    }, new Set(taps.map((tap) => tap.dispatch)));
    const encoder = device.createCommandEncoder();
    for (const [from, to, size] of carry) encoder.copyBufferToBuffer(this.buffers[from], 0, this.buffers[to], 0, size);
    device.queue.submit([encoder.finish()]);
    return async () => {
      const out = [];
      for (const { tap, buffer } of staged) out.push({ path: tap.path, data: await this.fetched(buffer) });
      return out;
    };
  }

  async prologue(name) {
    await this.submit(this.commands[name].prologue);
  }

  async submit(commands, after = () => {}, stops = new Set()) {
    for (let first = 0; first < commands.length; ) {
      this.signal?.throwIfAborted();
      const encoder = this.device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      let last = first;
      for (; last < commands.length && last < first + SUBMIT_EVERY; last++) {
        const { pipeline, group, grid } = commands[last];
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...grid);
        if (stops.has(last)) {
          last++;
          break;
        }
      }
      pass.end();
      if (stops.has(last - 1)) after(encoder, last - 1);
      this.device.queue.submit([encoder.finish()]);
      first = last;
      await this.turn();
    }
  }

  // Until few enough submits are waiting. A quick adapter gets more of them ahead, so that it never waits for the page.
  async turn() {
    this.queued.push(this.device.queue.onSubmittedWorkDone().catch(() => {}));
    while (this.queued.length > this.ahead) {
      const began = performance.now();
      await this.queued.shift();
      this.ahead = performance.now() - began > SLOW ? AHEAD.slow : AHEAD.quick;
    }
  }

  loss() {
    return new Refused(`The graphics adapter was lost (${this.lost}); close other tabs that use it and load the page again.`);
  }
}

export const OUT_OF_MEMORY = "The graphics adapter has not enough memory for this model; close other tabs and programs, or use a smaller model.";

// Everything that is an index, an offset or a size, before any of it is used.
export function check(plan, limits) {
  const { buffers, binary, uniforms } = plan;
  const demand = (fine, what) => {
    if (!fine) throw new Refused(`plan.json is damaged or of another version (${what}); export the page again.`);
  };
  const count = (n) => Number.isSafeInteger(n) && n >= 0;
  const inside = (at, size, whole) => count(at) && count(size) && size > 0 && at + size <= whole;
  const tensor = ({ buffer, shape }) => {
    demand(count(buffer) && buffer < buffers.length && shape.length === 4 && shape.every((n) => count(n) && n > 0), "a tensor");
    demand(tensorBytes({ shape }) <= buffers[buffer].size, "a tensor beyond its buffer");
  };
  demand(plan.format === 1, `format ${plan.format}`);
  demand(count(binary.size) && binary.piece > 0 && binary.pieces?.length === Math.ceil(binary.size / binary.piece), "the checksums");
  demand(inside(uniforms.at, uniforms.size, binary.size) && inside(0, uniforms.pitch, uniforms.size), "the uniforms");
  for (const { size, at } of buffers) {
    demand(count(size) && size > 0 && size % 4 === 0 && size <= limits.maxBufferSize, "a buffer's size");
    demand(at === undefined || inside(at, size, binary.size), "a buffer beyond the binary");
  }
  for (const { at, type, shape } of Object.values(plan.arrays)) {
    demand(type === "float32" || type === "uint8", "an array's type");
    demand(inside(at, product(shape) * (type === "uint8" ? 1 : 4), binary.size), "an array beyond the binary");
  }
  for (const { module, access } of plan.pipelines) {
    demand(count(module) && module < plan.modules.length && access.length <= 16, "a pipeline");
  }
  for (const { inputs, outputs, taps, prologue, steps, ...loop } of Object.values(plan.plans)) {
    for (const t of [...inputs, ...outputs, ...(loop.sinusoid ? [loop.sinusoid] : [])]) tensor(t);
    for (const { dispatch, buffer, size, at } of taps) {
      demand(count(dispatch) && dispatch < steps.length && count(buffer) && buffer < buffers.length && at.every((a) => inside(a, size, buffers[buffer].size)), "a tap");
    }
    for (const { pipeline, grid, uniform, bind } of [...prologue, ...steps]) {
      demand(count(pipeline) && pipeline < plan.pipelines.length, "a dispatch's pipeline");
      demand(grid.length === 3 && grid.every((n) => count(n) && n <= limits.maxComputeWorkgroupsPerDimension), "a dispatch's grid");
      demand(inside(uniform, uniforms.pitch, uniforms.size) && uniform % uniforms.pitch === 0, "a dispatch's uniforms");
      const storage = plan.pipelines[pipeline].access.filter((a) => a !== "uniform").length;
      demand(bind.length === 3 * storage, "a dispatch's bindings");
      for (let i = 0; i < bind.length; i += 3) {
        const [buffer, offset, size] = bind.slice(i, i + 3);
        demand(count(buffer) && buffer < buffers.length && inside(offset, size, buffers[buffer].size), "a binding beyond its buffer");
        demand(offset % limits.minStorageBufferOffsetAlignment === 0 && size <= limits.maxStorageBufferBindingSize, "a binding");
      }
    }
    if (loop.sinusoid) {
      const { state, coefficients, guidance, rows } = loop;
      demand([state, coefficients].every((b) => count(b) && b < buffers.length), "a buffer of the sampling");
      demand(inside(guidance, 4, uniforms.size) && guidance % 4 === 0, "the guidance");
      demand(count(rows) && rows <= loop.sinusoid.shape[2] && 16 * rows <= buffers[coefficients].size, "the most steps");
    }
    for (const [from, to, size] of loop.carry ?? []) {
      demand([from, to].every((b) => count(b) && b < buffers.length) && inside(0, size, Math.min(buffers[from].size, buffers[to].size)), "a copy");
    }
  }
}

export const product = (shape) => shape.reduce((a, b) => a * b, 1);

function layoutOf(shape) {
  const channels = shape[3];
  return [channels, Math.ceil(channels / 4) * 4, product(shape.slice(0, 3))];
}

function tensorBytes({ shape }) {
  const [, pitch, rows] = layoutOf(shape);
  return 4 * pitch * rows;
}

function unpadded(flat, { shape }) {
  const [channels, pitch, rows] = layoutOf(shape);
  if (channels === pitch) return flat;
  const out = new Float32Array(rows * channels);
  for (let row = 0; row < rows; row++) out.set(flat.subarray(row * pitch, row * pitch + channels), row * channels);
  return out;
}
