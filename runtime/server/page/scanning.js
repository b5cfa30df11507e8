// One switch: groups of choices light up in turn, then the choices of the group that was taken.

const ROUNDS = 2; // of a group's choices, before the groups take their turn again

export class Scanner {
  // `tooSoon()`: whether a press is still the one before.
  constructor(tooSoon) {
    this.tooSoon = tooSoon;
    this.lit = null;
    for (const type of ["keydown", "keyup", "click"]) addEventListener(type, (event) => this.onEvent(event), true);
  }

  start(pace) {
    this.stop();
    this.on = true;
    this.timer = setInterval(() => this.step(), 1000 * pace);
    this.restart();
  }

  stop() {
    clearInterval(this.timer);
    this.on = false;
    this.light(null);
  }

  // The choices have changed: begin with the first group.
  restart() {
    this.group = null;
    this.place = -1;
    if (this.on) this.step();
  }

  step() {
    const row = this.group ? choicesOf(this.group) : groups();
    if (this.group && (!row.length || this.place + 1 >= ROUNDS * row.length)) return this.restart();
    this.place += 1;
    this.light(row[this.place % row.length] ?? null);
  }

  take() {
    if (!this.lit?.isConnected) return;
    const choices = this.group ? [this.lit] : choicesOf(this.lit);
    if (choices.length === 1) {
      this.restart();
      choices[0].click();
    } else {
      this.group = this.lit;
      this.place = -1;
      this.step();
    }
  }

  light(element) {
    this.lit?.classList.remove("lit");
    this.lit = element;
    element?.classList.add("lit");
    element?.scrollIntoView({ block: "nearest" });
    if (element?.matches("button")) element.focus({ preventScroll: true });
  }

  // Every press of the switch, wherever it lands, is for the scanner; its own clicks are not trusted ones.
  onEvent(event) {
    if (!this.on || !event.isTrusted || event.target.matches?.("input, textarea")) return;
    const isKey = event.type !== "click";
    if (isKey && ![" ", "Enter"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.type !== "keyup" && !event.repeat && !this.tooSoon()) this.take();
  }
}

const isShown = (element) => element.checkVisibility();

// Of the open dialog or of the page; those marked `data-last` come after the others.
function groups() {
  const dialog = document.querySelector("dialog[open]");
  const shown = [...(dialog ?? document).querySelectorAll("[data-scan]")].filter(
    (group) => (dialog || !group.closest("dialog")) && isShown(group) && choicesOf(group).length,
  );
  return shown.sort((one, other) => ("last" in one.dataset) - ("last" in other.dataset));
}

const choicesOf = (group) => [...group.querySelectorAll("button:not(:disabled)")].filter(isShown);
