// A job as a card of the list: how far it is, what it waits for, its images, what may be done to it.

import { clone, many, number, partsOf, setOrRemove, show } from "./dom.js";
import { fileOf } from "./preview.js";
import { ImageRow, webURL } from "./rows.js";
import { allRecords, records } from "./service.js";
import { WindowedList } from "./window.js";

const REASONS = {
  user: "Imgur’s hourly credits are used up",
  client: "Imgur’s daily credits are used up",
  month: "Imgur may have blocked this client id for the rest of the month",
  posts: "Imgur takes no more uploads from this address this hour",
  blocked: "Imgur refuses this service for now",
  blocked_id: "Imgur refuses this client id",
  blocked_address: "Imgur refuses this address",
  credentials: "Imgur does not take this service’s client id or token; whoever runs it has to act",
  unavailable: "Imgur is out of order, or cannot be reached",
  unasked: "Imgur is being asked for its limits",
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

  /**
   * `act` has what the card's buttons call: `retry`, `cancel`, `undo`, `copy`, `copyDocument` and
   * `saveDocument`, each with this view, and `told` with the Problem where images cannot be loaded.
   */
  constructor(jobId, act) {
    this.jobId = jobId;
    this.#act = act;
    this.element = clone("job-template");
    this.element.id = jobId;
    const parts = (this.#parts = partsOf(this.element, {
      heading: "h3", link: ".job-link", title: ".title", state: ".state", time: "time",
      counts: ".counts", bar: "progress", waiting: ".waiting", album: ".album", told: ".told",
      retry: ".retry", cancel: ".cancel", undo: ".undo", copying: ".copying", copy: ".copy",
      document: ".document", copyDocument: ".copy-document", saveDocument: ".save-document",
      format: ".format", details: "details", summary: "summary", filter: ".filter",
      scroller: ".window", images: ".images",
    }));
    parts.link.href = `#${jobId}`;
    parts.heading.id = `heading-${jobId}`;
    parts.scroller.setAttribute("aria-label", `Images of job ${jobId}`);
    for (const name of ["retry", "cancel", "undo", "copy", "copyDocument", "saveDocument"]) {
      parts[name].setAttribute("aria-describedby", parts.heading.id);
      parts[name].addEventListener("click", () => act[name](this));
    }
    this.#list = new WindowedList(parts.scroller, parts.images, {
      makeRow: () => new ImageRow(),
      recordOf: (index) => (this.#filtered ?? this.#records)[index],
      onMove: () => this.#refresh(),
    });
    parts.details.addEventListener("toggle", () => this.#refresh());
    parts.filter.addEventListener("change", () => {
      this.#filtered = parts.filter.value ? [] : null;
      this.#list.resize(0);
      this.#list.reset();
      this.#refresh();
    });
  }

  get job() {
    return this.#job;
  }

  /** How its links are to be copied. */
  get format() {
    return this.#parts.format.value;
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

  /** Show `job`, a record of the list of jobs. */
  update(job) {
    const { state, time, counts, bar, summary } = this.#parts;
    const { total, completed, failed } = job.counts;
    const before = this.#job?.counts;
    // Something has gone back: a retry, or an undo.
    if (before && (completed < before.completed || failed < before.failed)) this.#age += 1;
    this.#job = job;
    show(this.#parts.title, titleOf(job));
    show(state, job.status);
    state.dataset.state = job.status;
    if (time.dateTime !== job.created) {
      time.dateTime = job.created;
      time.textContent = momentOf(job.created);
      time.title = new Date(job.created).toLocaleString();
    }
    show(counts, countsOf(job));
    bar.max = total;
    bar.value = completed + failed;
    bar.style.setProperty("--landed", completed / (completed + failed || 1));
    show(summary, many(total, "image"));
    this.#showWaiting(job);
    this.#showAlbum(job.album);
    this.#showActions(job);
    this.#tellLater();
    this.#refresh();
  }

  #showWaiting({ waiting_until: until, waiting_for: reason }) {
    const { waiting } = this.#parts;
    waiting.hidden = !reason;
    const text = reason && `Waits until ${momentOf(minuteBehind(until))}: ${REASONS[reason] ?? reason}.`;
    show(waiting, text ? `${text} It goes on by itself.` : "");
  }

  #showAlbum(album) {
    const { album: line } = this.#parts;
    line.hidden = !album;
    if (!album) return;
    const { title, link, words } = partsOf(line, { title: "bdi", link: "a", words: "span" });
    show(title, album.title);
    setOrRemove(link, "href", webURL(album.link)?.href);
    show(link, album.link ?? "");
    show(words, album.error?.message ?? (album.link ? "" : "is made when all images have ended."));
  }

  #showActions({ finished, document: name, counts: { completed, failed } }) {
    const { retry, cancel, undo, copying, document: ofDocument } = this.#parts;
    const held = document.activeElement;
    show(retry, `Retry ${number(failed)} failed`);
    retry.hidden = !failed || !finished;
    cancel.hidden = finished;
    undo.hidden = !completed;
    copying.hidden = !completed;
    ofDocument.hidden = !finished || !completed || !name;
    // Who pressed a button that is gone now would find themselves at the top of the page.
    const isGone = held?.closest("[hidden]") && this.element.contains(held);
    if (isGone) this.element.focus({ preventScroll: true });
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

/** What people call a job: its album, its document's file, or its first image's. */
export function titleOf({ job_id, album, document: name, first_url: url }) {
  return album?.title ?? name ?? (url ? fileOf(url) : job_id);
}

/** "3 completed, 1 failed, 2 pending", of a record of the list of jobs; what is 0 is left out. */
export function countsOf({ counts: { completed, failed, pending } }) {
  const words = Object.entries({ completed, failed, pending }).filter(([, count]) => count);
  return words.map(([word, count]) => `${number(count)} ${word}`).join(", ");
}

// The next full minute, or a wait would seem to be over while it still lasts.
function minuteBehind(text) {
  return Math.ceil(Date.parse(text) / 60_000) * 60_000;
}

/** A moment of today as its time, another one with its day. */
export function momentOf(text) {
  const moment = new Date(text);
  const time = moment.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
  const isToday = moment.toDateString() === new Date().toDateString();
  return isToday ? time : `${time} on ${moment.toLocaleDateString()}`;
}
