// What was done, in order, with the way back. Entries are never changed; each holds both sides of what it did, and its `bytes`.

export class History {
  // Of pictures at most `most` bytes are kept: the oldest entries go first, and the last one stays whatever it weighs.
  constructor(most = 512 * 2 ** 20) {
    Object.assign(this, { most, entries: [], at: 0, saved: 0 });
  }

  push(entry) {
    this.entries.length = this.at; // what was undone is no longer ahead
    if (this.saved > this.at) this.saved = -1;
    this.entries.push(entry);
    this.at++;
    while (this.entries.length > 1 && this.bytes > this.most) {
      this.entries.shift();
      this.at--;
      this.saved--;
    }
  }

  get bytes() {
    return this.entries.reduce((sum, entry) => sum + entry.bytes, 0);
  }

  get done() {
    return this.entries.slice(0, this.at);
  }

  get last() {
    return this.entries[this.at - 1] ?? null;
  }

  // The entry to take back, or to do again; null where there is none.
  undo() {
    return this.at > 0 ? this.entries[--this.at] : null;
  }

  redo() {
    return this.at < this.entries.length ? this.entries[this.at++] : null;
  }

  get canUndo() {
    return this.at > 0;
  }

  get canRedo() {
    return this.at < this.entries.length;
  }

  // Whether anything but opening a picture lies between what was saved last and what is there.
  get unsaved() {
    const [from, to] = [Math.max(0, this.saved), this.at].sort((a, b) => a - b);
    return this.entries.slice(from, to).some((entry) => entry.work !== false);
  }

  keptSaved() {
    this.saved = this.at;
  }
}
