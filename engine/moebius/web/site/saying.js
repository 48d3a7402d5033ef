// The line below the picture: what is going on, how far it is, and what went wrong. Nothing is said on the picture itself.

import { Refused } from "./errors.js";

const $ = (id) => document.getElementById(id);
const SHOWN = 8000; // milliseconds that a remark stays
let later = 0;

// What is under way; `fraction` from 0 to 1, or null where nobody knows.
export function busy(text, fraction = null, detail = "") {
  $("status").textContent = text;
  $("progress").hidden = false;
  if (fraction === null) $("progress").removeAttribute("value");
  else $("progress").value = fraction;
  $("detail").textContent = detail;
}

export function idle(text = "") {
  $("status").textContent = text;
  $("progress").hidden = true;
  $("detail").textContent = "";
}

// A remark goes by itself.
export function say(text, bad = false) {
  clearTimeout(later);
  $("message-text").textContent = text;
  $("message").classList.toggle("bad", bad);
  $("message").hidden = !text;
  $("status").hidden = Boolean(text);
  if (text && !bad) later = setTimeout(() => say(""), SHOWN);
}

// One sentence for what the user can do something about; the rest with its own text.
export function fail(error) {
  console.error(error);
  say(error instanceof Refused ? error.message : `This should not have happened: ${error.message}`, true);
}
