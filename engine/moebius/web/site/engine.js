// What fills holes. The page is the same whatever computes; an engine has
//
//   model()                                        {name, how, where, note, size, bytes, defaults: {steps, guidance, seed}, mostSteps,
//                                                  sample: {picture, mask} or null, files: those that may yet be needed}
//   fill(picture, mask, settings, hear, signal)    the picture with what is marked filled in. `hear` takes {text}, {note}, which stays, or
//                                                  {step, steps, pieces} with pieces [{picture, x, y, width, height}] of what is there so
//                                                  far; `signal` ends it
//   check(hear, signal)                            null where there is nothing to check; see check.js
//   lost                                           a promise of an error after which nothing can be filled any more
//
// `open` takes a function that hears of its loading as (what, done, total), in bytes or pieces.

export async function openEngine(hear) {
  const answer = await fetch("engine.json", { cache: "no-cache" }).catch(() => null);
  const about = answer?.ok ? await answer.json().catch(() => ({})) : {};
  const { open } = await (about.engine === "server" ? import("./engine_server.js") : import("./engine_webgpu.js"));
  return open(about, hear);
}
