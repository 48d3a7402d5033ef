// Mouse, pen and fingers on the stage. One finger marks, two move and zoom and never mark; the right button and a pen's eraser erase;
// with Shift it is a box; the middle button, and the hand, move the picture.

const ZOOM = { wheel: 0.0015, pinch: 0.01 }; // of the logarithm, a pixel of the wheel; browsers tell of a trackpad's pinch as a wheel with Ctrl
const LINE = 33; // pixels, where the wheel counts lines
const [LEFT, MIDDLE, RIGHT, PEN_ERASER] = [0, 1, 2, 5];

export class Pointers {
  constructor(editor, ring) {
    Object.assign(this, { editor, ring, at: new Map(), doing: null, by: "" });
    const on = (name, act, options) => editor.canvas.addEventListener(name, act, options);
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.up(event, false));
    on("pointercancel", (event) => this.up(event, true));
    on("pointerleave", () => (ring.hidden = true));
    on("contextmenu", (event) => event.preventDefault());
    on("auxclick", (event) => event.preventDefault());
    on("wheel", (event) => this.wheel(event), { passive: false });
  }

  place(event) {
    const box = this.editor.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    const { editor, at } = this;
    if (!editor.picture || ![LEFT, MIDDLE, RIGHT, PEN_ERASER].includes(event.button)) return;
    if (this.doing === "mark" && this.by === "pen" && event.pointerType === "touch") return; // the hand that holds it
    try {
      editor.canvas.setPointerCapture(event.pointerId);
    } catch {
      // it has gone already
    }
    at.set(event.pointerId, this.place(event));
    if (at.size > 1) {
      if (this.doing === "mark") editor.cancel();
      this.doing = "pinch"; // until no finger is left
      return;
    }
    if (event.button === MIDDLE || editor.tool === "hand" || editor.locked || editor.split !== null) {
      this.doing = "pan";
      return;
    }
    const erase = editor.tool === "eraser" || event.button === RIGHT || event.button === PEN_ERASER;
    Object.assign(this, { doing: "mark", by: event.pointerType });
    editor.begin(editor.tool === "box" || event.shiftKey ? "box" : "stroke", erase, editor.view.toPicture(...this.place(event)));
  }

  move(event) {
    const { editor, at } = this;
    this.showRing(event);
    const before = at.get(event.pointerId);
    if (!before) return;
    const now = this.place(event);
    if (this.doing === "pinch" && at.size === 2) {
      const [other] = [...at].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
      const middle = (place) => [(place[0] + other[0]) / 2, (place[1] + other[1]) / 2];
      const [from, to] = [middle(before), middle(now)];
      editor.view.pan(to[0] - from[0], to[1] - from[1]);
      editor.view.zoom(apart(now) / apart(before), ...to);
      editor.update();
    } else if (this.doing === "pan") {
      editor.view.pan(now[0] - before[0], now[1] - before[1]);
      editor.update();
    } else if (this.doing === "mark") {
      const events = event.getCoalescedEvents?.() ?? [];
      editor.goOn((events.length ? events : [event]).map((each) => editor.view.toPicture(...this.place(each))));
    }
    at.set(event.pointerId, now);
  }

  up(event, cancelled) {
    const { editor, at } = this;
    if (!at.delete(event.pointerId) || at.size) return;
    if (this.doing === "mark") cancelled ? editor.cancel() : editor.end();
    this.doing = null;
    if (event.pointerType === "touch") this.ring.hidden = true;
  }

  wheel(event) {
    const { editor } = this;
    event.preventDefault();
    if (!editor.picture) return;
    const turned = (event.deltaY || event.deltaX) * (event.deltaMode ? LINE : 1); // with Shift some systems turn it aside
    if (event.shiftKey || event.altKey) {
      editor.setBrush(editor.brush * Math.exp(-turned * ZOOM.wheel) + (turned < 0 ? 0.5 : -0.5));
      this.showRing(event);
    } else {
      editor.view.zoom(Math.exp(-turned * (event.ctrlKey ? ZOOM.pinch : ZOOM.wheel)), ...this.place(event));
      editor.update();
    }
  }

  // The brush's outline, dark and light, so that it shows on any picture.
  showRing(event) {
    const { editor, ring } = this;
    const brushes = (editor.tool === "brush" || editor.tool === "eraser") && !event.shiftKey;
    ring.hidden = !editor.picture || !brushes || editor.locked || editor.split !== null || this.doing === "pinch" || this.doing === "pan";
    const [x, y] = this.place(event);
    Object.assign(ring.style, { left: `${x}px`, top: `${y}px`, width: `${editor.brush}px`, height: `${editor.brush}px` });
  }
}
