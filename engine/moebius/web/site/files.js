// Pictures and masks from files and into files.

import { Refused } from "./errors.js";
import { paint } from "./marks.js";

const LARGEST = { area: 120e6, side: 16384 }; // in pixels: a canvas of that area takes half a gigabyte, and browsers have no longer ones
const KEPT = { "image/jpeg": "jpg", "image/webp": "webp", "image/png": "png" }; // the types that browsers write
const QUALITY = 0.95;

// {canvas, name, type, note}: the picture in its own size, upright, on white where it is transparent.
export async function opened(blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" }).catch(() => {
    throw new Refused(`${blob.name || "This"} is not a picture that this browser can open; try a JPEG or PNG.`);
  });
  const [wide, high] = [bitmap.width, bitmap.height];
  let scale = Math.min(1, Math.sqrt(LARGEST.area / (wide * high)), LARGEST.side / Math.max(wide, high));
  for (; ; scale *= 0.7) {
    const canvas = drawn(bitmap, Math.max(1, Math.round(wide * scale)), Math.max(1, Math.round(high * scale)));
    if (!canvas) continue;
    bitmap.close();
    const note = scale < 1 ? `The picture has ${wide}×${high} pixels; this browser can work on ${canvas.width}×${canvas.height} of it.` : "";
    return { canvas, name: blob.name ?? "picture", type: blob.type, note };
  }
}

export function checkSize(width, height) {
  if (width * height <= LARGEST.area && Math.max(width, height) <= LARGEST.side) return;
  throw new Refused(`${width}×${height} pixels are more than a browser can work on (${LARGEST.side} a side, ${LARGEST.area / 1e6} million in all); add less.`);
}

// Null where the browser has no canvas of that size: some have none over 16 million pixels, and draw nothing.
function drawn(bitmap, width, height) {
  try {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // what is transparent has no colour of its own
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    if (context.getImageData(width - 1, height - 1, 1, 1).data[3] === 255) return canvas;
  } catch {
    // refused, then
  }
  if (width * height < 1e6) throw new Refused("This browser has no memory left for the picture; close other tabs and open it again.");
  return null;
}

// The picture as a file of its own type under its own name: {blob, name}.
export async function written(canvas, name, type) {
  const blob = await canvas.convertToBlob({ type: type in KEPT ? type : "image/png", quality: QUALITY });
  return { blob, name: nameOf(name, blob.type) };
}

// NAME-filled.EXT, with the extension as it was where that is one of the type.
export function nameOf(name, type, what = "filled") {
  const [, stem, ending] = /^(.*?)(\.[a-z0-9]{1,5})?$/is.exec(name.replace(/[/\\]/g, "_")) ?? [];
  const fitting = { "image/jpeg": /^\.jpe?g$/i, "image/webp": /^\.webp$/i, "image/png": /^\.png$/i }[type];
  return `${stem || "picture"}-${what}${ending && fitting?.test(ending) ? ending : `.${KEPT[type] ?? "png"}`}`;
}

// White where it is marked, on black.
export async function maskWritten(marks, { width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  for (const mark of marks) paint(context, mark);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  return canvas.convertToBlob({ type: "image/png" });
}

// A byte a pixel, 1 where the file is light: the mask of a picture of that size, scaled where it has another.
export async function maskOpened(blob, { width, height }) {
  const { canvas } = await opened(blob);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = 299 * rgba[4 * i] + 587 * rgba[4 * i + 1] + 114 * rgba[4 * i + 2] >= 128_000 ? 1 : 0;
  if (!data.includes(1)) throw new Refused(`${blob.name || "The mask"} marks nothing: no pixel of it is lighter than mid-grey.`);
  return { data, width, height };
}

export function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
