// A list of any length in which only the rows that can be seen exist. Rows are all of one height,
// and may stand side by side in columns.

const BEYOND = 600; // pixels above and below what can be seen
const MOVED_MS = 100; // between two calls of `onMove`

/** `scroller` shows a part of `list`, an ol whose rows `makeRow` makes: `{ element, update }`. */
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
  #moved = 0;

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
      row.element.style.transform = `translate(${100 * column}%, ${line * height}px)`;
      row.element.ariaSetSize = String(this.#count);
      row.update(this.#recordOf(index));
    }
    for (const row of spare) row.element.remove();
    // Whoever pressed a button that is gone now would find themselves at the top of the page.
    const isGone = !this.#list.contains(document.activeElement) || document.activeElement.closest("[hidden]");
    if (isHeld && isGone) this.#scroller.focus({ preventScroll: true });
  }

  #added(index, row = this.#makeRow()) {
    row.element.ariaPosInSet = String(index + 1);
    row.element.dataset.index = String(index);
    const later = [...this.#list.children].find((each) => Number(each.dataset.index) > index);
    this.#list.insertBefore(row.element, later ?? null);
    this.#rows.set(index, row);
    return row;
  }

  #soon() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.draw();
      this.#moved ||= setTimeout(() => {
        this.#moved = 0;
        this.#onMove();
      }, MOVED_MS);
    });
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
