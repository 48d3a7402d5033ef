// Whether plan.json and the file of an edition can be what an export wrote: everything in them that is an index, an offset or a size,
// before any of it is used.

import { Refused } from "./errors.js";
import { product, tensorBytes } from "./tensors.js";

const count = (n) => Number.isSafeInteger(n) && n >= 0;
const inside = (at, size, whole) => count(at) && count(size) && size > 0 && at + size <= whole;
const isBuffer = (size, limits) => count(size) && size > 0 && size % 4 === 0 && size <= limits.maxBufferSize;

const demanding = (file) => (fine, what) => {
  if (!fine) throw new Refused(`${file} is damaged or of another version (${what}); export the page again.`);
};

// What decides which device is asked for.
export function checkEditions({ format, editions }) {
  const demand = demanding("plan.json");
  demand(format === 2, `format ${format}`);
  demand(Array.isArray(editions) && editions.length > 0, "the editions");
  for (const { name, file, features, precision, bound } of editions) {
    demand(typeof name === "string" && /^[\w.-]+$/.test(file) && Array.isArray(features), "an edition");
    const held = Object.values(bound ?? {});
    demand((precision === "f32" || precision === "f16") && held.length > 0 && held.every(Number.isFinite), "an edition's bound");
  }
  demand(editions.at(-1).features.length === 0, "the last edition");
}

export function checkPlan({ binary, weights, arrays }, limits) {
  const demand = demanding("plan.json");
  demand(count(binary.size) && binary.piece > 0 && binary.pieces?.length === Math.ceil(binary.size / binary.piece), "the checksums");
  for (const { size, at } of weights) {
    demand(isBuffer(size, limits), "a buffer's size");
    demand(inside(at, size, binary.size), "a buffer beyond the binary");
  }
  for (const { at, type, shape } of Object.values(arrays)) {
    demand(type === "float32" || type === "uint8", "an array's type");
    demand(inside(at, product(shape) * (type === "uint8" ? 1 : 4), binary.size), "an array beyond the binary");
  }
}

export function checkEdition(file, { modules, pipelines, buffers, plans }, weights, limits) {
  const demand = demanding(file);
  const sizeOf = (buffer) => (count(buffer) ? buffers[buffer] : count(-1 - buffer) ? weights[-1 - buffer]?.size : undefined);
  const within = (buffer, at, size) => sizeOf(buffer) !== undefined && inside(at, size, sizeOf(buffer));
  const tensor = ({ buffer, shape }) => {
    demand(sizeOf(buffer) !== undefined && shape.length === 4 && shape.every((n) => count(n) && n > 0), "a tensor");
    demand(tensorBytes({ shape }) <= sizeOf(buffer), "a tensor beyond its buffer");
  };
  for (const size of buffers) demand(isBuffer(size, limits), "a buffer's size");
  for (const { module, access } of pipelines) demand(count(module) && module < modules.length && access.length <= 16, "a pipeline");
  for (const { inputs, outputs, taps, prologue, steps, ...loop } of Object.values(plans)) {
    for (const t of [...inputs, ...outputs, ...(loop.sinusoid ? [loop.sinusoid] : [])]) tensor(t);
    for (const { dispatch, buffer, type, size, at } of taps) {
      demand(["f32", "f16", "quad"].includes(type) && count(dispatch) && dispatch < steps.length && at.every((a) => within(buffer, a, size)), "a tap");
    }
    for (const { pipeline, grid, params, bind } of [...prologue, ...steps]) {
      demand(count(pipeline) && pipeline < pipelines.length, "a dispatch's pipeline");
      demand(grid.length === 3 && grid.every((n) => count(n) && n <= limits.maxComputeWorkgroupsPerDimension), "a dispatch's grid");
      demand(inside(0, 4 * params.length, limits.maxUniformBufferBindingSize) && params.every((n) => count(n) && n < 2 ** 32), "a dispatch's parameters");
      const storage = pipelines[pipeline].access.filter((a) => a !== "uniform").length;
      demand(bind.length === 3 * storage, "a dispatch's bindings");
      for (let i = 0; i < bind.length; i += 3) {
        const [buffer, offset, size] = bind.slice(i, i + 3);
        demand(within(buffer, offset, size), "a binding beyond its buffer");
        demand(offset % limits.minStorageBufferOffsetAlignment === 0 && size <= limits.maxStorageBufferBindingSize, "a binding");
      }
    }
    if (loop.sinusoid) {
      const { state, coefficients, guidance, rows } = loop;
      demand(within(state, 0, 4), "the buffer of the step's number");
      demand(count(rows) && rows <= loop.sinusoid.shape[2] && within(coefficients, 0, 16 * rows), "the most steps");
      demand(count(guidance[0]) && count(guidance[1]) && guidance[1] < (steps[guidance[0]]?.params.length ?? 0), "the guidance");
    }
    for (const [from, to, size] of loop.carry ?? []) demand(within(from, 0, size) && within(to, 0, size), "a copy");
  }
}
