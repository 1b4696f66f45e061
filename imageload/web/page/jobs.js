// A job as a card of the list: how far it is, what it waits for, its images, what may be done to it.

import { clone, keepUnderPointer, many, partsOf, setOrRemove, show } from "./dom.js";
import { Pace } from "./pace.js";
import { ImageRow, webURL } from "./rows.js";
import { allRecords, records } from "./service.js";
import { WindowedList } from "./window.js";
import {
  countsOf, endsOf, failuresOf, momentOf, reasonsOf, stateOf, titleOf, waitOf,
} from "./words.js";

const TILE = 176; // pixels
const AHEAD = 100; // images to each side of those that can be seen
const FEWEST_TILES = 2; // side by side, on the narrowest phone too
const ACTIONS = [
  "retry", "cancel", "undo", "copy", "copyId", "copyDocument", "saveDocument", "hide",
];
const PARTS = {
  heading: "h3", link: ".job-link", title: ".title", state: ".state", time: "time", id: ".job-id",
  counts: ".counts", bar: "progress", pace: ".pace", plot: ".plot", waiting: ".waiting",
  album: ".album", reasons: ".reasons", told: ".told", retry: ".retry", cancel: ".cancel",
  undo: ".undo", copying: ".copying", copy: ".copy", format: ".format", copyId: ".copy-id",
  document: ".document", copyDocument: ".copy-document", saveDocument: ".save-document",
  hide: ".hide", details: "details", summary: "summary", filter: ".filter", grid: ".grid",
  scroller: ".window", images: ".images",
};

/** One job of the list: `element` stands in the page, `update` keeps it true. */
export class JobView {
  #parts;
  #job = null;
  #list;
  #records = []; // by index; those of an older `#age` may have changed, even if they had ended
  #ages = [];
  #age = 0;
  #filtered = null;
  #loading = false;
  #again = false;
  #later = null;
  #act;
  #pace = new Pace();
  #reasons = null; // of the failed images; null: not known for the job as it is
  #explaining = false;
  #isSeen = false;
  #retriesAll = false;

  /**
   * `act` has what the card's buttons call: those in ACTIONS with this view, `retryImage` with it
   * and a record, `copyLink` and `enlarge` with a record and the button, and `told` with the
   * Problem where images cannot be loaded.
   */
  constructor(jobId, act) {
    this.jobId = jobId;
    this.#act = act;
    this.element = clone("job-template");
    this.element.id = jobId;
    const parts = (this.#parts = partsOf(this.element, PARTS));
    show(parts.id, jobId);
    parts.link.href = `#${jobId}`;
    parts.heading.id = `heading-${jobId}`;
    for (const name of ACTIONS) {
      parts[name].setAttribute("aria-describedby", parts.heading.id);
      parts[name].addEventListener("click", () => act[name](this, parts[name]));
    }
    this.#list = new WindowedList(parts.scroller, parts.images, {
      makeRow: () => new ImageRow({ ...act, retry: (record) => act.retryImage(this, record) }),
      recordOf: (index) => (this.#filtered ?? this.#records)[index],
      onMove: () => this.#refresh(),
      columnsOf: (width) => (this.#isGrid ? Math.max(FEWEST_TILES, Math.floor(width / TILE)) : 1),
    });
    parts.details.addEventListener("toggle", () => this.#refresh());
    parts.filter.addEventListener("change", () => {
      this.#filtered = parts.filter.value ? [] : null;
      this.#list.resize(0);
      this.#list.reset();
      this.#refresh();
    });
    parts.grid.addEventListener("click", () => this.#toggleGrid());
    new IntersectionObserver((entries) => {
      this.#isSeen = entries.at(-1).isIntersecting;
      this.#explain();
    }, { rootMargin: "100% 0px" }).observe(this.element); // before it is seen, so that it need not grow
  }

  get job() {
    return this.#job;
  }

  /** The reasons of its failed images, as `reasonsOf` counts them; null: not known yet. */
  get reasons() {
    return this.#reasons;
  }

  /** Whether a retry takes images too that will fail again unless something was done. */
  get retriesAll() {
    return this.#retriesAll;
  }

  set retriesAll(retriesAll) {
    this.#retriesAll = retriesAll;
    this.#showActions();
  }

  /** How its links are to be copied. */
  get format() {
    return this.#parts.format.value;
  }

  /** Whether the card is shown only because hidden ones are. */
  set isHidden(isHidden) {
    show(this.#parts.hide, isHidden ? "Unhide" : "Hide");
  }

  /** Show the images too. */
  open() {
    this.#parts.details.open = true;
  }

  /**
   * Tell what came of what was done to the job. `later`, where it is given, is called with the job
   * until it has more to tell.
   */
  tell(text, later = null) {
    this.#later = later;
    show(this.#parts.told, text);
    this.#tellLater();
  }

  #tellLater() {
    const text = this.#later?.(this.#job);
    if (text) this.tell(text);
  }

  get #isGrid() {
    return this.#parts.grid.ariaPressed === "true";
  }

  #toggleGrid() {
    const { grid, images } = this.#parts;
    grid.ariaPressed = String(!this.#isGrid);
    images.classList.toggle("tiles", this.#isGrid);
    this.#list.reset();
    this.#refresh();
  }

  /** Show `job`, a record of the list of jobs. */
  update(job) {
    const { completed, failed } = job.counts;
    const before = this.#job?.counts;
    // Something has gone back: a retry, or an undo.
    const hasGoneBack = before && (completed < before.completed || failed < before.failed);
    if (hasGoneBack) this.#age += 1;
    if (hasGoneBack || failed !== before?.failed || !job.finished) this.#reasons = null;
    this.#job = job;
    this.#pace.add(job);
    this.#showHead();
    this.#showAlbum(job.album);
    this.#showActions();
    this.#tellLater();
    this.#refresh();
    this.#explain();
  }

  #showHead() {
    const { title, state, time, counts, bar, pace, plot, waiting, summary, scroller } = this.#parts;
    const job = this.#job;
    const { total, pending, completed, failed } = job.counts;
    const name = titleOf(job);
    show(title, name);
    scroller.ariaLabel = `Images of ${name}`;
    const { state: colour, text } = stateOf(job, this.#reasons);
    show(state, text);
    state.dataset.state = colour;
    if (time.dateTime !== job.created) {
      time.dateTime = job.created;
      show(time, momentOf(job.created));
      time.title = new Date(job.created).toLocaleString();
    }
    show(counts, countsOf(job, this.#reasons));
    bar.max = total;
    bar.value = completed + failed;
    const { failed: broken } = endsOf(job, this.#reasons);
    const ended = completed + failed || 1;
    bar.style.setProperty("--landed", completed / ended);
    bar.style.setProperty("--asked-for", (completed + failed - (broken ?? 0)) / ended);
    show(summary, many(total, "image"));
    const isMoving = !job.finished && pending > 0 && !job.waiting_for;
    show(pace, isMoving ? this.#pace.words(job) : "");
    plot.classList.toggle("quiet", !isMoving);
    if (isMoving) this.#pace.draw(plot, job);
    waiting.hidden = !waitOf(job);
    show(waiting, waitOf(job));
  }

  #showAlbum(album) {
    const { album: line } = this.#parts;
    line.hidden = !album;
    if (!album) return;
    const { link, words } = partsOf(line, { link: "a", words: "span" });
    setOrRemove(link, "href", webURL(album.link)?.href);
    show(link, album.link ?? "");
    show(words, album.error?.message ?? (album.link ? "" : "made when all images have finished."));
  }

  #showActions() {
    const { retry, cancel, undo, copying, document: ofDocument, hide } = this.#parts;
    const { finished, document: name, counts: { completed, failed } } = this.#job;
    const held = document.activeElement;
    const ends = endsOf(this.#job, this.#reasons);
    if (ends.failed) show(retry, this.#retriesAll ? "Retry anyway" : "Retry");
    else show(retry, ends.deleted ? "Upload again" : "Upload the rest");
    retry.hidden = !failed || !finished || !this.#reasons;
    cancel.hidden = finished;
    undo.hidden = !completed;
    copying.hidden = !completed;
    ofDocument.hidden = !finished || !completed || !name;
    hide.hidden = !finished;
    // Who pressed a button that is gone now would find themselves at the top of the page.
    const isGone = held?.closest("[hidden]") && this.element.contains(held);
    if (isGone) this.element.focus({ preventScroll: true });
  }

  // Load and show the reasons of what has failed, once somebody sees the card of an ended job.
  async #explain() {
    const job = this.#job;
    const isWanted = job?.finished && job.counts.failed && this.#isSeen && !this.#reasons;
    if (!isWanted || this.#explaining) {
      if (!this.#reasons) this.#showReasons();
      return;
    }
    this.#explaining = true;
    try {
      const reasons = reasonsOf(await allRecords(this.jobId, "failed"));
      if (this.#job !== job) return; // it has changed meanwhile
      this.#reasons = reasons;
      keepUnderPointer(() => {
        this.#showHead();
        this.#showActions();
        this.#showReasons();
      });
    } catch (problem) {
      this.#act.told(problem);
    } finally {
      this.#explaining = false;
      if (this.#job !== job) this.#explain();
    }
  }

  #showReasons() {
    const failures = failuresOf(this.#reasons ?? new Map());
    const { reasons } = this.#parts;
    reasons.hidden = !failures.length;
    const lines = failures.map(({ code, count, message, advice }) => {
      const line = document.createElement("li");
      const [much, why, todo] = ["strong", "bdi", "span"].map((tag) => document.createElement(tag));
      much.textContent = `${many(count, "image")}:`;
      line.title = code;
      why.textContent = message;
      todo.textContent = advice;
      line.append(much, " ", why, " ", todo);
      return line;
    });
    reasons.replaceChildren(...lines);
  }

  // Bring the images that can be seen and may have changed up to date.
  async #refresh() {
    if (!this.#parts.details.open || !this.#job) return;
    if (this.#loading) {
      this.#again = true;
      return;
    }
    this.#loading = true;
    try {
      do {
        this.#again = false;
        await (this.#filtered ? this.#loadFiltered() : this.#loadSeen());
      } while (this.#again);
    } catch (problem) {
      this.#act.told(problem);
    } finally {
      this.#loading = false;
    }
  }

  async #loadSeen() {
    this.#list.resize(this.#job.counts.total);
    let [start, end] = this.#list.range;
    if (this.#isNew(start) || this.#isNew(end - 1)) {
      // It is scrolled, and will be on: rather one request now than ten a second.
      [start, end] = [Math.max(0, start - AHEAD), Math.min(end + AHEAD, this.#job.counts.total)];
    }
    while (start < end && !this.#lacks(start)) start += 1;
    while (start < end && !this.#lacks(end - 1)) end -= 1;
    if (start === end) return;
    const age = this.#age;
    const found = await records(this.jobId, start, end - start);
    if (this.#filtered) return;
    found.forEach((record, offset) => {
      this.#records[start + offset] = record;
      this.#ages[start + offset] = age;
    });
    this.#list.draw();
  }

  #lacks(index) {
    const state = this.#records[index]?.state;
    return this.#ages[index] !== this.#age || !["completed", "failed"].includes(state);
  }

  #isNew(index) {
    return index >= 0 && !this.#records[index];
  }

  async #loadFiltered() {
    const state = this.#parts.filter.value;
    if (this.#filtered.age === this.#age && this.#filtered.length === this.#job.counts[state]) return;
    const age = this.#age;
    const found = await allRecords(this.jobId, state);
    if (state !== this.#parts.filter.value) return;
    this.#filtered = Object.assign(found, { age });
    this.#list.resize(found.length);
    this.#list.draw();
  }
}
