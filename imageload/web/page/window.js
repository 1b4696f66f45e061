// A list of any length in which only the rows that can be seen exist. Rows are all of one height,
// and may stand side by side in columns. While it is scrolled, a row that leaves is shown again at
// the other end without a change of the document's order: that would lay out all that is in it.

import { setOrRemove } from "./dom.js";

const BEYOND = 600; // pixels above and below what can be seen
const MOVED_MS = 100; // between two looks at how far it was scrolled
const PASSING = 0.5; // of what can be seen, scrolled in that time: nobody sees a picture then

/**
 * `scroller` shows a part of `list`, an ol whose rows `makeRow` makes: `{ element, update }`. They
 * are updated with a record, and whether they only pass by.
 */
export class WindowedList {
  #scroller;
  #list;
  #makeRow;
  #recordOf;
  #onMove;
  #columnsOf;
  #rows = new Map(); // index: row
  #count = 0;
  #height = 0;
  #frame = 0;
  #timer = 0; // while it is scrolled
  #top = 0; // at the last look
  #isPassing = false;

  /**
   * `recordOf(index)` is what a row shows; `onMove` is called when other rows can be seen.
   * `columnsOf(width)` is how many stand side by side in so many pixels.
   */
  constructor(scroller, list, { makeRow, recordOf, onMove = () => {}, columnsOf = () => 1 }) {
    this.#scroller = scroller;
    this.#list = list;
    this.#makeRow = makeRow;
    this.#recordOf = recordOf;
    this.#onMove = onMove;
    this.#columnsOf = columnsOf;
    scroller.addEventListener("scroll", () => this.#soon(), { passive: true });
    new ResizeObserver(() => {
      this.#height = 0;
      this.#soon();
    }).observe(scroller);
  }

  /** The indices that rows are there for: from the first up to, and without, the second. */
  get range() {
    const height = this.#rowHeight();
    const columns = this.#columns;
    const beyond = Math.ceil(BEYOND / height);
    const first = columns * (Math.floor(this.#scroller.scrollTop / height) - beyond);
    const seen = columns * (Math.ceil(this.#scroller.clientHeight / height) + 2 * beyond);
    const start = Math.max(0, Math.min(first, this.#count - seen));
    return [start, Math.min(this.#count, Math.max(0, first) + seen)];
  }

  /** Have `count` rows. */
  resize(count) {
    if (count === this.#count) return;
    this.#count = count;
    this.draw();
  }

  get #columns() {
    return this.#columnsOf(this.#scroller.clientWidth);
  }

  /** Forget where the reader was and how high rows are, and begin at the top. */
  reset() {
    this.#height = 0;
    this.#scroller.scrollTop = 0;
    this.draw();
  }

  /** Show the rows that can be seen as they are now. */
  draw() {
    const isHeld = this.#list.contains(document.activeElement);
    const height = this.#rowHeight();
    const columns = this.#columns;
    this.#list.style.height = `${height * Math.ceil(this.#count / columns)}px`;
    this.#list.style.setProperty("--columns", columns);
    const [start, end] = this.range;
    const spare = [];
    for (const [index, row] of this.#rows) {
      const isKept = row.element.contains(document.activeElement) && index < this.#count;
      if ((index < start || index >= end) && !isKept) {
        this.#rows.delete(index);
        spare.push(row);
      }
    }
    for (let index = start; index < end; index += 1) {
      const row = this.#rows.get(index) ?? this.#added(index, spare.pop());
      const [column, line] = [index % columns, Math.floor(index / columns)];
      const place = `translate(${100 * column}%, ${line * height}px)`;
      if (row.place !== place) row.element.style.transform = row.place = place;
      setOrRemove(row.element, "aria-setsize", String(this.#count));
      row.update(this.#recordOf(index), this.#isPassing);
    }
    for (const row of spare) row.element.remove();
    if (!this.#timer) this.#sort();
    // Whoever pressed a button that is gone now would find themselves at the top of the page.
    const isGone = !this.#list.contains(document.activeElement) || document.activeElement.closest("[hidden]");
    if (isHeld && isGone) this.#scroller.focus({ preventScroll: true });
  }

  #added(index, row = this.#makeRow()) {
    row.element.ariaPosInSet = String(index + 1);
    if (!row.element.parentElement) this.#list.append(row.element);
    this.#rows.set(index, row);
    return row;
  }

  // Bring the rows into the order in which they are read. The one with the focus would lose it.
  #sort() {
    const rows = [...this.#rows].sort(([a], [b]) => a - b).map(([, { element }]) => element);
    const held = Math.max(0, rows.findIndex((row) => row.contains(document.activeElement)));
    for (let at = held + 1; at < rows.length; at += 1) {
      if (rows[at - 1].nextSibling !== rows[at]) rows[at - 1].after(rows[at]);
    }
    for (let at = held - 1; at >= 0; at -= 1) {
      if (rows[at + 1].previousSibling !== rows[at]) rows[at + 1].before(rows[at]);
    }
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#timer ||= setTimeout(() => this.#look(), MOVED_MS);
      this.draw();
    });
  }

  #look() {
    const moved = Math.abs(this.#scroller.scrollTop - this.#top);
    this.#top = this.#scroller.scrollTop;
    this.#isPassing = moved > PASSING * this.#scroller.clientHeight;
    this.#timer = moved && setTimeout(() => this.#look(), MOVED_MS);
    if (!this.#isPassing) this.draw();
    this.#onMove();
  }

  // Style sheets say how high a row is; a row that is there knows.
  #rowHeight() {
    if (this.#height) return this.#height;
    const there = this.#rows.values().next().value?.element;
    const probe = there ?? this.#list.appendChild(this.#makeRow().element);
    const height = probe.getBoundingClientRect().height;
    if (!there) probe.remove();
    this.#height = height;
    return height || 1;
  }
}
