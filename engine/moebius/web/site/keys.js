// Keys, and which of them are left to what has the focus.

const TYPED = new Set(["text", "number", "search"]);

// `acts` by key: undo, redo, open, save, fill, stop, tool(name), size(factor), zoom(factor), fit, pixels, clear, compare(held), pan(dx, dy)
export function listen(acts) {
  let comparing = false;
  const release = () => {
    if (comparing) acts.compare((comparing = false));
  };
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const { target } = event;
    const typing = target.tagName === "INPUT" && TYPED.has(target.type);
    const control = target.closest?.("button, a, input, select, summary, [popover]");
    const act = event.ctrlKey || event.metaKey ? withControl(event, typing, acts) : event.altKey || typing ? null : alone(event, control, acts);
    if (!act) return;
    event.preventDefault();
    act();
  });
  document.addEventListener("keyup", (event) => event.key === " " && release());
  window.addEventListener("blur", release);

  function alone(event, control, acts) {
    const { key, repeat } = event;
    if (key === " ") {
      if (control && control.id !== "compare") return null;
      if (repeat || comparing) return () => {};
      comparing = true;
      return () => acts.compare(true);
    }
    if (key === "Enter") return control ? null : acts.fill;
    if (key === "Escape") return document.querySelector(":popover-open") ? null : acts.stop;
    const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[key];
    if (arrows) return control ? null : () => acts.pan(...arrows);
    const tools = { b: "brush", e: "eraser", r: "box", h: "hand" };
    const one = key.toLowerCase();
    if (one in tools) return () => acts.tool(tools[one]);
    const size = { "[": 1 / 1.15, "]": 1.15 }[key];
    if (size) return () => acts.size(size);
    const zoom = { "+": 1.25, "=": 1.25, "-": 0.8 }[key];
    if (zoom) return () => acts.zoom(zoom);
    return { 0: acts.fit, 1: acts.pixels, c: acts.clear, "?": acts.help }[one] ?? null;
  }
}

function withControl(event, typing, { undo, redo, open, save }) {
  const key = event.key.toLowerCase();
  if (key === "z") return typing ? null : event.shiftKey ? redo : undo; // in a field it takes back what was typed
  if (key === "y") return typing ? null : redo;
  return { o: open, s: save }[key] ?? null;
}
