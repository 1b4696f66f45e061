// A job and its images as elements, changed in place. What strangers wrote (a URL, a message, a
// link) becomes text, or an href after `webURL` has looked at it; nothing is read as markup.

import { imagePages } from "./service.js";

const ROWS_AT_ONCE = 1_000;
const THUMBNAIL = "b"; // Imgur's square of 160 pixels

/** One job of the list: `element` stands in the page, `update` and `loadImages` keep it true. */
export class JobView {
  #parts;
  #job = null;
  #rows = [];
  #settled = 0; // so many images, from the first on, will not change any more
  #wanted = ROWS_AT_ONCE;

  /** `refresh` is called when images come into view that are not loaded. */
  constructor(jobId, refresh) {
    this.element = clone("job-template");
    this.element.id = anchor(jobId);
    this.#parts = partsOf(this.element, {
      id: ".job-id", state: ".state", time: "time", counts: ".counts", bar: "progress",
      details: "details", summary: "summary", images: ".images", more: ".more",
    });
    this.#parts.id.textContent = jobId;
    this.#parts.details.addEventListener("toggle", () => this.#lacks() && refresh());
    this.#parts.more.addEventListener("click", () => {
      this.#wanted += ROWS_AT_ONCE;
      refresh();
    });
  }

  get job() {
    return this.#job;
  }

  /** Show the images too. */
  open() {
    this.#parts.details.open = true;
  }

  /** Show `job`, a record of the list of jobs. */
  update(job) {
    const { state, time, counts, bar, summary } = this.#parts;
    const { total, completed, failed } = job.counts;
    if (this.#job?.finished && !job.finished) this.#settled = 0;
    this.#job = job;
    show(state, job.status);
    state.dataset.state = job.status;
    if (time.dateTime !== job.created) {
      time.dateTime = job.created;
      time.textContent = new Date(job.created).toLocaleString();
    }
    show(counts, countsOf(job));
    bar.max = total;
    bar.value = completed + failed;
    show(summary, total === 1 ? "1 image" : `${number(total)} images`);
  }

  /** Bring the images that can be seen and may have changed up to date; may throw a Problem. */
  async loadImages() {
    if (!this.#lacks()) return;
    let index = this.#settled;
    for await (const records of imagePages(this.#job.job_id, this.#settled)) {
      this.#show(records.slice(0, this.#end - index), index);
      index += records.length;
      if (index >= this.#end) break;
    }
    const left = this.#job.counts.total - this.#end;
    this.#parts.more.hidden = left <= 0;
    show(this.#parts.more, `Show ${number(Math.min(left, ROWS_AT_ONCE))} more of ${number(left)}`);
  }

  get #end() {
    return Math.min(this.#wanted, this.#job.counts.total);
  }

  #lacks() {
    return this.#parts.details.open && this.#settled < this.#end;
  }

  #show(records, start) {
    const fresh = document.createDocumentFragment();
    records.forEach((record, offset) => {
      const index = start + offset;
      if (index === this.#rows.length) {
        this.#rows.push(new ImageRow());
        fresh.append(this.#rows[index].element);
      }
      this.#rows[index].update(record);
      const ended = record.state === "completed" || record.state === "failed";
      if (ended && index === this.#settled) this.#settled += 1;
    });
    this.#parts.images.append(fresh);
  }
}

class ImageRow {
  #parts;
  #shown = "";

  constructor() {
    this.element = clone("image-template");
    this.#parts = partsOf(this.element, {
      thumbnail: "img", state: ".state", size: ".size", source: "bdi", link: ".link",
      anchor: "a", reason: ".reason", code: ".reason code", message: ".reason span",
    });
    const { thumbnail } = this.#parts;
    thumbnail.addEventListener("error", () => (thumbnail.hidden = true));
  }

  /** Show `record`, one of a job's images. */
  update(record) {
    const key = JSON.stringify(record);
    if (key === this.#shown) return;
    this.#shown = key;
    const { state, size, source } = this.#parts;
    this.element.dataset.state = state.dataset.state = record.state;
    show(state, record.state);
    show(size, sizeOf(record));
    show(source, record.url);
    this.#showLink(record.link);
    this.#showReason(record.error);
  }

  #showLink(link) {
    const { thumbnail, link: line, anchor } = this.#parts;
    const url = webURL(link);
    line.hidden = !link;
    show(anchor, link ?? "");
    setOrRemove(anchor, "href", url?.href);
    const picture = url && thumbnailOf(url);
    if (setOrRemove(thumbnail, "src", picture)) thumbnail.hidden = !picture;
  }

  #showReason(error) {
    const { reason, code, message } = this.#parts;
    reason.hidden = !error;
    show(code, error?.code ?? "");
    show(message, error?.message ?? "");
  }
}

/** The id of a job's element. */
export function anchor(jobId) {
  return `job-${jobId}`;
}

/** "3 completed, 1 failed, 2 pending", of a record of the list of jobs; what is 0 is left out. */
export function countsOf({ counts: { completed, failed, pending } }) {
  const words = Object.entries({ completed, failed, pending }).filter(([, count]) => count);
  return words.map(([word, count]) => `${number(count)} ${word}`).join(", ");
}

/** `text` as a URL where it is one of the web, else null: the only way to an href or src. */
function webURL(text) {
  const url = URL.canParse(text) ? new URL(text) : null;
  return url && ["http:", "https:"].includes(url.protocol) ? url : null;
}

// https://i.imgur.com/abc1234.png: its thumbnail is abc1234b.jpg, whatever the image is.
function thumbnailOf(url) {
  const id = url.pathname.match(/^\/([A-Za-z0-9]+)\.[A-Za-z0-9]+$/)?.[1];
  return id ? `${url.origin}/${id}${THUMBNAIL}.jpg` : null;
}

function sizeOf({ type, width, height, bytes }) {
  const words = [];
  if (type) words.push(type);
  if (width && height) words.push(`${width}\u00a0×\u00a0${height}`);
  if (bytes) words.push(`${number(Math.ceil(bytes / 1_000))}\u00a0kB`);
  return words.join(" · ");
}

function number(count) {
  return count.toLocaleString("en");
}

function clone(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

function partsOf(element, selectors) {
  const found = ([name, selector]) => [name, element.querySelector(selector)];
  return Object.fromEntries(Object.entries(selectors).map(found));
}

function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setOrRemove(element, name, value) {
  if (element.getAttribute(name) === (value ?? null)) return false;
  if (value) element.setAttribute(name, value);
  else element.removeAttribute(name);
  return true;
}
