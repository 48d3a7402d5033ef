// The dialog of the self-check: what check.js found, in words and in a table.

import { canvasOf } from "./bitmaps.js";
import { described } from "./editions.js";
import { download } from "./files.js";

const $ = (id) => document.getElementById(id);

// {ok, said} of what `engine.check` gives, which is shown as well; `made` is the fingerprint.
export async function shown(checked) {
  const made = checked.fingerprint(await base64(await canvasOf(checked.picture).convertToBlob({ type: "image/png" })));
  const worst = checked.rows.reduce((a, b) => ((b.relative_l2 ?? Infinity) > (a.relative_l2 ?? Infinity) ? b : a));
  const { edition, distance } = checked;
  const levels = (n) => `${n} grey level${n === 1 ? "" : "s"}`;
  const [what, far] = edition.bound.levels
    ? [levels(edition.bound.levels), levels(distance.levels)]
    : [`what ${described(edition)} may differ by`, `${levels(distance.mean.toFixed(2))} in the mean and ${distance.psnr.toFixed(1)} dB`];
  const said = checked.ok
    ? `Yes: its picture is that of the native run, to within ${what}.`
    : `No: its picture is ${far} from that of the native run; please report this with the fingerprint.`;
  $("verdict").className = `verdict ${checked.ok ? "good" : "bad"}`;
  $("verdict").textContent = said;
  const facts = [
    ["Computed in", described(edition)],
    ["Distance of the hole", distance.psnr === Infinity ? "none" : `${distance.mean.toFixed(3)} grey levels, ${distance.psnr.toFixed(1)} dB`],
    ["Pixel values that differ at all", `${(100 * checked.different).toPrecision(2)} %`],
    [`Largest error of ${checked.rows.length} tensors`, worst.relative_l2?.toExponential(1) ?? "not finite"],
    ["Noise from the seed", checked.noiseIsSame ? "the same bits" : "different"],
    ["Window of the picture", checked.windowIsSame ? "the same" : "different"],
    ["Time of the check", `${checked.seconds.toFixed(1)} s`],
    ["Adapter", made.columns[0].adapter.device],
  ];
  $("facts").replaceChildren(...facts.map(([what, value]) => cell("li", `${what}: `, cell("b", value))));
  $("rows").replaceChildren(
    ...checked.rows.map((row) =>
      cell("tr", cell("td", row.name), ...[row.relative_l2, row.max_abs].map((v) => cell("td", v?.toExponential(1) ?? "not finite"))),
    ),
  );
  $("tensors").hidden = false;
  $("fingerprint").disabled = false;
  $("fingerprint").onclick = () => download(new Blob([JSON.stringify(made)]), `${made.columns[0].implementation}.json`);
  return { ok: checked.ok, said, made };
}

function cell(tag, ...content) {
  const element = document.createElement(tag);
  element.append(...content);
  return element;
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
