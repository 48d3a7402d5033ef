// Replays recorded plans: buffers, pipelines and bind groups of an edition (engine/moebius/web/bundle.py says what is in it). Knows nothing
// of pictures.

import { Refused } from "./errors.js";
import { numbers, padded, tensorBytes, unpadded } from "./tensors.js";

const SUBMIT_EVERY = 32; // dispatches a submit: a desktop's watchdog ends what runs for two seconds
const AHEAD = { quick: 8, slow: 1 }; // submits that may wait in the queue: what a run that is stopped has still to wait for
const SLOW = 20; // milliseconds that one of them takes

// With the features that `wanted` names for the adapter; without any where it does not grant them after all.
export async function openDevice(wanted = () => []) {
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
  const features = [...new Set(wanted(adapter))];
  try {
    return { adapter, device: await adapter.requestDevice({ requiredFeatures: features }) };
  } catch (error) {
    if (features.length) return openDevice();
    throw new Refused(`The graphics adapter could not be opened (${error.message}); close other tabs that use it and load the page again.`);
  }
}

export class Player {
  // Of an `Exported`: its edition that `about` is of.
  constructor(exported, about, { modules, pipelines, buffers, plans }) {
    const { plan, arrays, adapter, device } = exported;
    Object.assign(this, { exported, about, modules, pipelines, plans, plan, arrays, adapter, device });
    Object.assign(this, { signal: null, queued: [], ahead: AHEAD.slow });
    const use = GPUBufferUsage;
    device.pushErrorScope("out-of-memory");
    this.own = buffers.map((size) => device.createBuffer({ size, usage: use.STORAGE | use.COPY_SRC | use.COPY_DST }));
    this.uniforms = this.parameters();
    this.full = device.popErrorScope();
    this.refused = (event) => (this.failed ??= event.error.message);
    device.addEventListener("uncapturederror", this.refused);
  }

  // Those of all dispatches, one behind the other.
  parameters() {
    const { device } = this;
    const all = Object.values(this.plans).flatMap(({ prologue, steps }) => [...prologue, ...steps]);
    const align = device.limits.minUniformBufferOffsetAlignment;
    this.pitch = align * Math.ceil((4 * all.reduce((most, { params }) => Math.max(most, params.length), 1)) / align);
    const data = new Uint32Array((all.length * this.pitch) / 4);
    all.forEach(({ params }, i) => data.set(params, (i * this.pitch) / 4));
    const buffer = device.createBuffer({ size: data.byteLength, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  }

  // The buffer that a plan has under a number.
  buffer(number) {
    return number < 0 ? this.exported.weights[-1 - number] : this.own[number];
  }

  get lost() {
    return this.exported.lost;
  }

  loss() {
    return this.exported.loss();
  }

  // Gives its memory back. The weights stay.
  close() {
    this.device.removeEventListener("uncapturederror", this.refused);
    for (const buffer of [...this.own, this.uniforms]) buffer.destroy();
  }

  // loading -----------------------------------------------------------------------------------------------------------

  // Every pipeline is asked for at once: browsers compile them beside each other.
  async compile(progress) {
    if (await this.full) throw new Refused(OUT_OF_MEMORY);
    const { device } = this;
    device.pushErrorScope("validation"); // of a module; what its pipelines say is enough
    const modules = this.modules.map((code) => device.createShaderModule({ code }));
    device.popErrorScope().catch(() => {});
    const types = { read: "read-only-storage", read_write: "storage", uniform: "uniform" };
    let done = 0;
    const compiled = await Promise.all(
      this.pipelines.map(async ({ module, entry, access }) => {
        const entries = access.map((a, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type: types[a] } }));
        const layout = device.createBindGroupLayout({ entries });
        const pipeline = await device.createComputePipelineAsync({
          layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
          compute: { module: modules[module], entryPoint: entry },
        });
        progress("Compiling shaders", ++done, this.pipelines.length);
        return { pipeline, layout, access };
      }),
    ).catch((error) => {
      throw this.lost ? this.loss() : new Refused(`A shader did not compile (${error.message}); update the browser or the graphics driver.`);
    });
    this.commands = {};
    let uniform = -this.pitch;
    const command = (d) => this.command(d, compiled[d.pipeline], (uniform += this.pitch));
    for (const [name, { prologue, steps }] of Object.entries(this.plans)) {
      this.commands[name] = { prologue: prologue.map(command), steps: steps.map(command) };
    }
  }

  command({ grid, bind }, { layout, access, pipeline }, uniform) {
    let next = 0;
    const entries = access.map((a, binding) => {
      if (a === "uniform") return { binding, resource: { buffer: this.uniforms, offset: uniform, size: this.pitch } };
      const [buffer, offset, size] = bind.slice(next, (next += 3));
      return { binding, resource: { buffer: this.buffer(buffer), offset, size } };
    });
    return { pipeline, grid, uniform, group: this.device.createBindGroup({ layout, entries }) };
  }

  // running -----------------------------------------------------------------------------------------------------------

  // A Float32Array, channels last, into a tensor, whose channels are padded to a multiple of four.
  write(tensor, array) {
    this.device.queue.writeBuffer(this.buffer(tensor.buffer), 0, padded(array, tensor));
  }

  // The table of the timesteps, a row of coefficients for each, and the guidance, before the steps of a run.
  schedule(name, times, coefficients, guidance) {
    const { sinusoid, coefficients: rows, guidance: [step, word] } = this.plans[name];
    const { queue } = this.device;
    this.write(sinusoid, times);
    queue.writeBuffer(this.buffer(rows), 0, new Float32Array(coefficients));
    queue.writeBuffer(this.uniforms, this.commands[name].steps[step].uniform + 4 * word, new Float32Array([guidance]));
  }

  async read(tensor) {
    return unpadded(numbers(await this.bytes(this.buffer(tensor.buffer), tensorBytes(tensor)), "f32"), tensor);
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
    return copy;
  }

  // One replay; `signal`, an AbortSignal, ends it between two submits. `taps` are copied right behind the dispatch that makes them, before
  // their memory is used again; what is returned fetches them.
  async replay(name, { step = 0, taps = [] } = {}) {
    const { device } = this;
    const { state, carry = [] } = this.plans[name];
    if (state !== undefined) device.queue.writeBuffer(this.buffer(state), 0, new Uint32Array([step]));
    const staged = taps.map((tap) => ({
      tap,
      buffer: device.createBuffer({ size: tap.size * tap.at.length, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST }),
    }));
    await this.submit(this.commands[name].steps, (encoder, dispatch) => {
      for (const { tap, buffer } of staged) {
        if (tap.dispatch !== dispatch) continue;
        tap.at.forEach((at, i) => encoder.copyBufferToBuffer(this.buffer(tap.buffer), at, buffer, i * tap.size, tap.size));
      }
    }, new Set(taps.map((tap) => tap.dispatch)));
    const encoder = device.createCommandEncoder();
    for (const [from, to, size] of carry) encoder.copyBufferToBuffer(this.buffer(from), 0, this.buffer(to), 0, size);
    device.queue.submit([encoder.finish()]);
    return async () => {
      const out = [];
      for (const { tap, buffer } of staged) out.push({ path: tap.path, data: numbers(await this.fetched(buffer), tap.type) });
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
}

export const OUT_OF_MEMORY = "The graphics adapter has not enough memory for this model; close other tabs and programs, or use a smaller model.";
