// The page: an editor, an engine, and the buttons, keys and files between them.

import { canvasOf } from "./bitmaps.js";
import { shown as showCheck } from "./checking.js";
import { Editor, SIZES } from "./editor.js";
import { openEngine } from "./engine.js";
import { Refused } from "./errors.js";
import * as files from "./files.js";
import { listen } from "./keys.js";
import { bitmap } from "./marks.js";
import { keepForOffline } from "./offline.js";
import { Pointers } from "./pointer.js";
import { busy, fail, idle, say } from "./saying.js";
import { forgotten } from "./weights.js";

const $ = (id) => document.getElementById(id);
const page = (globalThis.moebius = { state: "loading" }); // what a test or the console can look at
const editor = (page.editor = new Editor($("stage"), $("canvas"), ready));
new Pointers(editor, $("ring"));
let engine = null;
let running = null; // the AbortController of a fill
let opening = 0; // pictures on their way into the editor
let lost = false;

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

// buttons -------------------------------------------------------------------------------------------------------------

function ready() {
  if (!page.editor) return; // it is being made
  const { history, picture, marks, view } = editor;
  const again = !marks.length && history.last?.kind === "fill";
  const free = !running && !opening;
  $("run").disabled = !(running || (engine && !lost && free && picture));
  $("run-name").textContent = running ? "Stop" : again ? "Fill again" : "Fill";
  $("run").title = running ? "Stop (Esc)" : again ? "The same once more, with the next seed (Enter)" : "Fill in what is marked (Enter)";
  $("undo").disabled = !free || !history.canUndo;
  $("redo").disabled = !free || !history.canRedo;
  $("compare").disabled = !editor.past.length;
  $("compare").setAttribute("aria-pressed", String(editor.split !== null));
  $("split").hidden = editor.split === null;
  for (const id of ["download", "save-mask", "clear", "extend", "open-mask"]) $(id).disabled = !free || !picture;
  $("open").disabled = !free;
  $("hint").hidden = Boolean(picture);
  $("zoom").textContent = picture ? `${Math.max(1, Math.round(100 * view.scale))} %` : "–";
  for (const id of ["zoom", "zoom-in", "zoom-out"]) $(id).disabled = !picture;
  $("stage").dataset.tool = editor.tool;
  $("stage").toggleAttribute("data-busy", Boolean(running));
  editor.locked = !free;
  $("size").value = sizeToSlider(editor.brush);
  $("size-value").textContent = `${editor.brush} px`;
  $("size").setAttribute("aria-valuetext", `${editor.brush} pixels`);
  $("canvas").setAttribute("aria-label", described(picture, marks));
}

function described(picture, marks) {
  if (!picture) return "No picture yet";
  const what = marks.length ? `${marks.length} marked ${marks.length === 1 ? "place" : "places"}` : "nothing marked";
  return `${editor.name || "The picture"}, ${picture.width} by ${picture.height} pixels, ${what}. Paint with the pointer over what is to be filled in.`;
}

// The slider is logarithmic: a pixel more matters to a small brush.
const sizeToSlider = (size) => (100 * Math.log(size / SIZES.least)) / Math.log(SIZES.most / SIZES.least);
const sliderToSize = (value) => SIZES.least * (SIZES.most / SIZES.least) ** (value / 100);

function choose(tool) {
  editor.tool = tool;
  for (const each of ["brush", "eraser", "box", "hand"]) $(`tool-${each}`).setAttribute("aria-pressed", String(each === tool));
  $("ring").hidden = true;
  ready();
}

function slider(id, show) {
  const update = () => ($(`${id}-value`).textContent = show($(id).value));
  $(id).addEventListener("input", update);
  update();
  return update;
}

// pictures and masks --------------------------------------------------------------------------------------------------

// What `act` does, with the buttons locked meanwhile and its failure said.
async function taking(act) {
  if (running) return say("A fill is on its way; Esc stops it.");
  say("");
  opening++;
  ready();
  try {
    await act();
  } catch (error) {
    fail(error);
  }
  opening--;
  ready();
}

const open = (file) =>
  file &&
  taking(async () => {
    const { note, ...picture } = await files.opened(file);
    editor.open(picture);
    if (note) say(note);
  });

const openMask = (file) => file && taking(async () => editor.openMask(await files.maskOpened(file, editor.picture)));

const save = () =>
  editor.picture &&
  taking(async () => {
    const { blob, name } = await files.written(editor.picture, editor.name, editor.type);
    files.download(blob, name);
    editor.history.keptSaved();
    say(`Saved as ${name}`);
  });

const saveMask = () => taking(async () => files.download(await files.maskWritten(editor.marks, editor.picture), files.nameOf(editor.name, "image/png", "mask")));

function extend() {
  const sides = ["left", "top", "right", "bottom"].map((side) => Math.min(4096, Math.max(0, Math.round(Number($(`edge-${side}`).value) || 0))));
  if (!sides.some(Boolean)) return say("Say at which sides, and by how many pixels.", true);
  const [left, top, right, bottom] = sides;
  taking(async () => {
    files.checkSize(editor.picture.width + left + right, editor.picture.height + top + bottom);
    $("more").hidePopover();
    editor.extend(...sides);
  });
}

// filling -------------------------------------------------------------------------------------------------------------

async function run() {
  if (running) return running.abort(new Stopped());
  if ($("run").disabled || editor.active) return;
  say("");
  const job = editor.job(engine.model().size);
  if (!job) return say("Nothing is marked; paint over what should be filled in.", true);
  delete page.error;
  if (job.again) $("seed").value = String(seedOf($("seed").value) + 1n);
  const mine = (running = new AbortController());
  editor.compareAt(null);
  ready();
  const began = performance.now();
  const settings = { steps: Number($("steps").value), guidance: Number($("guidance").value), seed: seedOf($("seed").value) };
  if (job.again) editor.marks = job.marks; // to see where
  busy("Starting");
  try {
    await new Promise((resolve) => setTimeout(resolve)); // so that it is seen
    let note = "";
    const hear = (told) => {
      note = told.note ?? note;
      if (!told.note && !mine.signal.aborted) progress(told, job, began);
    };
    const result = await engine.fill(job.picture, job.mask, settings, hear, mine.signal);
    mine.signal.throwIfAborted();
    if (job.again) editor.marks = [];
    editor.filled(job, result);
    Object.assign(page, { result, job, seconds: (performance.now() - began) / 1000 });
    idle(`Filled in ${page.seconds.toFixed(1)} s`);
    if (note) say(note);
  } catch (error) {
    if (job.again) editor.marks = [];
    idle(mine.signal.aborted ? "Stopped" : "");
    if (!mine.signal.aborted) {
      page.error = error.message;
      fail(error);
    }
  } finally {
    running = null;
    editor.preview = [];
    editor.update();
  }
  if (page.result && !page.checking && !page.error) check().catch(fail);
}

class Stopped extends Error {}

function progress({ text, step, steps, pieces }, job, began) {
  const seconds = (performance.now() - began) / 1000;
  if (text) return busy(text, null, `${seconds.toFixed(1)} s`);
  busy(`Step ${step} of ${steps}`, step / steps, `${seconds.toFixed(1)} s`);
  if (pieces) editor.showPreview(pieces.map((piece) => ({ ...piece, x: piece.x + job.x, y: piece.y + job.y })));
}

// Every digit of a long one counts, and a Number has but 53 bits.
function seedOf(text) {
  return /^\d+$/.test(text) ? BigInt(text) : BigInt(Math.max(0, Math.floor(Number(text) || 0)));
}

// The self-check: after the first fill and when it is asked for. A fill that begins meanwhile ends it, and the next one begins it again.
function check() {
  page.checking ??= (async () => {
    $("run-check").disabled = true;
    try {
      const checked = await engine.check(({ step, steps }) => ($("verdict").textContent = `Checking: step ${step} of ${steps}`));
      if (!checked) return null;
      const { ok, said, made } = await showCheck(checked);
      Object.assign(page, { checked, fingerprint: made });
      if (!ok) say(said, true);
      return ok;
    } catch (error) {
      page.checking = null;
      $("verdict").textContent = "The check was interrupted; it is done after the next fill, or now.";
      if (error.name !== "AbortError") throw error;
      return null;
    } finally {
      $("run-check").disabled = false;
    }
  })();
  return page.checking;
}

page.check = () => {
  page.checking = null;
  return check();
};

// the beginning -------------------------------------------------------------------------------------------------------

async function start() {
  busy("Loading the model", 0);
  engine = page.engine = await openEngine((what, done, total) => {
    busy(what, done / total, total > 1e5 ? `${megabytes(done)} of ${megabytes(total)}` : `${done} of ${total}`);
  });
  const { name, how, where, note, size, bytes, defaults, mostSteps, sample, files: further } = engine.model();
  engine.lost.then((error) => {
    lost = true;
    ready();
    fail(error);
  });
  $("steps").max = String(Math.min(Number($("steps").max), mostSteps));
  for (const id of ["steps", "guidance", "seed"]) $(id).value = defaults[id];
  for (const update of sliders) update();
  const facts = [name, bytes && megabytes(bytes), how, where].filter(Boolean).join(", ");
  $("model").textContent = `Model: ${facts}, working on ${size}×${size} pixels. ${note}`;
  for (const id of ["show-check", "forget"]) $(id).hidden = !sample; // of an engine that is elsewhere there is nothing here
  if (!editor.picture && !opening && sample) {
    const marks = sample.mask ? [bitmap(sample.mask)] : [];
    editor.open({ canvas: canvasOf(sample.picture), name: "sample.png", type: "image/png" }, marks);
  }
  idle("Ready");
  if (note) say(note);
  page.state = "ready";
  if (sample) page.offline = await keepForOffline(further).catch((error) => console.warn("The page is not kept for offline use:", error.message));
}

// wiring --------------------------------------------------------------------------------------------------------------

const sliders = [slider("steps", String), slider("guidance", (v) => Number(v).toFixed(1))];
const click = (id, act) => $(id).addEventListener("click", act);
const chosen = (id, act) =>
  $(id).addEventListener("change", (event) => {
    act(event.target.files[0]);
    event.target.value = ""; // or the same file a second time would be no change
  });
chosen("open", open);
chosen("open-mask", (file) => {
  $("more").hidePopover();
  openMask(file);
});
for (const tool of ["brush", "eraser", "box", "hand"]) click(`tool-${tool}`, () => choose(tool));
$("size").addEventListener("input", () => editor.setBrush(sliderToSize($("size").value)));
click("undo", () => editor.undo());
click("redo", () => editor.redo());
click("clear", () => editor.clear());
click("run", run);
click("download", save);
click("save-mask", saveMask);
click("extend", extend);
click("dismiss", () => say(""));
$("canvas").addEventListener("pointerdown", () => say("")); // what was said has been read
click("dice", () => ($("seed").value = String(Math.floor(Math.random() * 2 ** 32))));
const zoom = (factor) => {
  editor.view.zoom(factor);
  editor.update();
};
const fit = () => {
  editor.view.fit();
  editor.update();
};
const pixels = () => zoom(1 / (editor.view.scale * (globalThis.devicePixelRatio || 1)));
click("zoom-in", () => zoom(1.25));
click("zoom-out", () => zoom(0.8));
click("zoom", () => (editor.view.fitted ? pixels() : fit()));
click("forget", () => forgotten().then(() => say("The cached weights are gone; the next visit downloads them again.")));
for (const name of ["keys", "check"]) {
  click(`show-${name}`, () => {
    $("more").hidePopover();
    $(name).showModal();
  });
}
for (const button of document.querySelectorAll("dialog .close")) button.addEventListener("click", () => button.closest("dialog").close());
click("run-check", () => page.check().catch(fail));
// After a click a key is meant for the picture, not once more for the button.
document.querySelector("header").addEventListener("click", (event) => {
  if (event.detail && event.target.closest("button:not([popovertarget])")) $("canvas").focus({ preventScroll: true });
});

// Held, the button shows the original; a short press changes to the slider, and back.
const SHORT = 300;
let pressed = 0;
$("compare").addEventListener("pointerdown", () => {
  pressed = performance.now();
  editor.compare(true);
});
for (const name of ["pointerup", "pointerleave", "pointercancel"]) $("compare").addEventListener(name, () => editor.compare(false));
click("compare", (event) => {
  if (event.detail && performance.now() - pressed > SHORT) return;
  editor.compareAt(editor.split === null ? 0.5 : null);
  $("split").value = "500";
  if (editor.split !== null) $("split").focus();
});
$("split").addEventListener("input", () => {
  const [width, thumb] = [$("split").clientWidth, 32]; // whose middle does not reach the ends
  editor.compareAt((thumb / 2 + ($("split").value / 1000) * (width - thumb)) / width);
});
$("split").addEventListener("wheel", (event) => $("canvas").dispatchEvent(new WheelEvent("wheel", event)), { passive: true });

listen({
  undo: () => editor.undo(),
  redo: () => editor.redo(),
  open: () => $("open").click(),
  save,
  fill: () => !running && run(),
  stop: () => (running ? run() : editor.split !== null && editor.compareAt(null)),
  tool: choose,
  size: (factor) => editor.setBrush(factor > 1 ? Math.max(editor.brush + 1, editor.brush * factor) : Math.min(editor.brush - 1, editor.brush * factor)),
  zoom,
  fit,
  pixels,
  clear: () => !running && editor.clear(),
  compare: (held) => editor.compare(held),
  pan: (dx, dy) => {
    editor.view.pan(48 * dx, 48 * dy);
    editor.update();
  },
  help: () => $("keys").showModal(),
});
document.addEventListener("paste", (event) => open([...event.clipboardData.files].find((f) => f.type.startsWith("image/"))));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? $("stage").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  open(event.dataTransfer.files[0]);
});
window.addEventListener("beforeunload", (event) => {
  if (editor.history.unsaved || running) event.preventDefault();
});

choose("brush");
start()
  .catch((error) => {
    page.state = "failed";
    page.error = error.message;
    idle(error instanceof Refused ? "" : "The model could not be loaded.");
    fail(error);
  })
  .finally(ready);
