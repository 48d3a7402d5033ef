// The page: loads the model, checks the browser, lets people paint and run.

import { fingerprint, maskOf, pictureOf, selfCheck } from "./check.js";
import { Editor, imageOf } from "./editor.js";
import { Refused } from "./errors.js";
import { inpaint } from "./inpaint.js";
import { openDevice, Player } from "./player.js";
import { forgotten } from "./weights.js";

const $ = (id) => document.getElementById(id);
const page = (globalThis.moebius = { state: "loading" }); // what a test or the console can look at
const editor = (page.editor = new Editor($("canvas"), $("brush"), ready));
let player = null;
let running = null; // {stop} while a run is under way
let opening = 0; // pictures on their way into the editor

class Stopped extends Error {}

// saying things ------------------------------------------------------------------------------------------------------

function busy(text, fraction, detail = "") {
  $("loading").hidden = false;
  $("progress").hidden = fraction === null;
  $("status").textContent = text;
  $("progress").value = fraction ?? 0;
  $("detail").textContent = detail;
}

function idle() {
  $("loading").hidden = true;
}

// One sentence for what the user can do something about; the rest with its own text.
function fail(error) {
  page.state = "failed";
  page.error = error.message;
  console.error(error);
  $("message").hidden = false;
  $("message").textContent = error instanceof Refused ? error.message : `This should not have happened: ${error.message}`;
  if (player) idle();
  else busy("The model could not be loaded.", null);
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

// buttons and sliders -------------------------------------------------------------------------------------------------

function ready() {
  // While the page checks itself the player is taken: two runs at once would write into each other's buffers.
  const can = page.state !== "loading" && player && !player.lost && !opening && editor.picture;
  $("run").disabled = !can;
  $("run").textContent = running ? "Stop" : "Fill in";
  for (const id of ["open", "undo", "clear"]) $(id).disabled = Boolean(running);
  for (const id of ["download", "before", "keep"]) $(id).disabled = !editor.result || Boolean(running);
  editor.locked = Boolean(running);
}

function slider(id, show) {
  const update = () => {
    $(`${id}-value`).textContent = show($(id).value);
    if (id === "size") editor.size = Number($(id).value);
  };
  $(id).addEventListener("input", update);
  update();
  return update;
}

function tool(erasing) {
  editor.erasing = erasing;
  $("paint").setAttribute("aria-pressed", String(!erasing));
  $("erase").setAttribute("aria-pressed", String(erasing));
}

async function open(file) {
  if (!file || running) return;
  $("message").hidden = true;
  opening++;
  ready();
  try {
    const note = await editor.open(file);
    if (note) say(note);
    $("frame").classList.remove("empty");
  } catch {
    say(`${file.name || "This"} is not a picture that this browser can open; try a JPEG or PNG.`);
  }
  opening--;
  ready();
}

function say(text) {
  $("message").hidden = false;
  $("message").textContent = text;
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function png(picture) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").putImageData(imageOf(picture, null), 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

// running -------------------------------------------------------------------------------------------------------------

async function run() {
  if (running) {
    running.stop = true;
    return;
  }
  const marked = editor.marked();
  if (!marked.data.includes(1)) {
    say("Nothing is marked; paint over what should be filled in.");
    return;
  }
  $("message").hidden = true;
  const mine = (running = { stop: false });
  ready();
  const began = performance.now();
  busy("Encoding the picture", 0);
  try {
    const settings = { steps: Number($("steps").value), guidance: Number($("guidance").value), seed: seedOf($("seed").value) };
    await new Promise(requestAnimationFrame);
    const result = await inpaint(player, editor.picture, marked, settings, async ({ step, steps }) => {
      busy(`Step ${step} of ${steps}`, step / steps, `${((performance.now() - began) / 1000).toFixed(1)} s`);
      await new Promise(requestAnimationFrame);
      if (mine.stop) throw new Stopped();
    });
    editor.showResult(result);
    page.result = result;
    page.seconds = (performance.now() - began) / 1000;
  } catch (error) {
    if (!(error instanceof Stopped)) fail(error);
  } finally {
    running = null;
    idle();
    ready();
  }
}

// Every digit of a long one counts, and a Number has but 53 bits.
function seedOf(text) {
  return /^\d+$/.test(text) ? BigInt(text) : BigInt(Math.max(0, Math.floor(Number(text) || 0)));
}

async function check() {
  const checked = await selfCheck(player, ({ step, steps }) => busy("Checking this browser", step / steps));
  page.checked = checked;
  page.fingerprint = fingerprint(player, checked, await base64(await png(checked.picture)));
  const worst = checked.rows.reduce((a, b) => ((b.relative_l2 ?? Infinity) > (a.relative_l2 ?? Infinity) ? b : a));
  $("verdict").className = `verdict ${checked.ok ? "good" : "bad"}`;
  $("verdict").textContent = checked.ok
    ? "Yes: its picture is that of the native run, to within one grey level."
    : `No: its picture is ${checked.greyLevels ?? "beyond all"} grey levels from that of the native run; please report this with the fingerprint.`;
  const facts = [
    ["Pixel values that differ at all", `${(100 * checked.different).toPrecision(2)} %`],
    [`Largest error of ${checked.rows.length} tensors`, worst.relative_l2?.toExponential(1) ?? "not finite"],
    ["Noise from the seed", checked.noiseIsSame ? "the same bits" : "different"],
    ["Window of the picture", checked.windowIsSame ? "the same" : "different"],
    ["Time of the check", `${checked.seconds.toFixed(1)} s`],
    ["Adapter", page.fingerprint.columns[0].adapter.device],
  ];
  $("facts").replaceChildren(...facts.map(([what, value]) => cell("li", `${what}: `, cell("b", value))));
  $("rows").replaceChildren(
    ...checked.rows.map((row) =>
      cell("tr", cell("td", row.name), ...[row.relative_l2, row.max_abs].map((v) => cell("td", v?.toExponential(1) ?? "not finite"))),
    ),
  );
  $("tensors").hidden = false;
  $("fingerprint").disabled = false;
}

function cell(tag, ...content) {
  const element = document.createElement(tag);
  element.append(...content);
  return element;
}

async function start() {
  const opened = await openDevice();
  player = await Player.open("plan.json", opened, (what, done, total) => {
    busy(what, done / total, what === "Compiling shaders" ? `${done} of ${total}` : `${megabytes(done)} of ${megabytes(total)}`);
  });
  page.player = player;
  const { plan, arrays } = player;
  opened.device.lost.then(() => {
    ready();
    say(player.loss().message);
  });
  for (const id of ["steps", "guidance", "seed"]) $(id).value = plan.defaults[id];
  for (const update of sliders) update();
  $("model").textContent = `Model: ${plan.model}, ${megabytes(plan.binary.size)}, working on ${plan.config.size}×${plan.config.size} pixels. ${plan.note}`;
  if (!editor.picture) editor.show(pictureOf(arrays.photo), maskOf(arrays.mask));
  $("frame").classList.remove("empty");
  await check();
  idle();
  page.state = "ready";
}

// wiring --------------------------------------------------------------------------------------------------------------

const sliders = [slider("size", (v) => `${v} px`), slider("steps", String), slider("guidance", (v) => Number(v).toFixed(1))];
$("open").addEventListener("change", (event) => {
  open(event.target.files[0]);
  event.target.value = ""; // or the same file a second time would be no change
});
$("paint").addEventListener("click", () => tool(false));
$("erase").addEventListener("click", () => tool(true));
$("undo").addEventListener("click", () => editor.undo());
$("clear").addEventListener("click", () => editor.clear());
$("run").addEventListener("click", run);
$("keep").addEventListener("click", () => editor.keepResult());
$("download").addEventListener("click", async () => save(await png(editor.result), "moebius.png"));
$("fingerprint").addEventListener("click", () => save(new Blob([JSON.stringify(page.fingerprint)]), `${page.fingerprint.columns[0].implementation}.json`));
$("forget").addEventListener("click", () => forgotten().then(() => say("The cached weights are gone; the next visit downloads them again.")));
for (const [name, original] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["pointercancel", false]]) {
  $("before").addEventListener(name, () => {
    editor.showOriginal = original;
    if (editor.picture) editor.draw();
  });
}
document.addEventListener("keydown", (event) => {
  const typing = event.target.type === "number"; // there Ctrl-Z takes back what was typed
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && !running && !typing) editor.undo();
});
document.addEventListener("paste", (event) => open([...event.clipboardData.files].find((f) => f.type.startsWith("image/"))));
$("frame").addEventListener("dragover", (event) => {
  event.preventDefault();
  $("frame").classList.add("over");
});
$("frame").addEventListener("dragleave", () => $("frame").classList.remove("over"));
$("frame").addEventListener("drop", (event) => {
  event.preventDefault();
  $("frame").classList.remove("over");
  open(event.dataTransfer.files[0]);
});

start().catch(fail).finally(ready);
