// All jobs of the service, newest first, and the cards of those that are shown.

import { keepUnderPointer, many, show } from "./dom.js";
import { JobView } from "./jobs.js";
import { fileOf, titleOf } from "./words.js";

const JOBS_AT_ONCE = 50;
const HIDDEN = "imageload-hidden";

export class JobList {
  #jobs = new Map(); // jobId: its record, newest first
  #heard = new Set(); // for each request under way, the jobs heard of since it began, by id
  #views = new Map(); // jobId: JobView, of those that are shown
  #hidden = new Set(JSON.parse(localStorage.getItem(HIDDEN) ?? "[]"));
  #wanted = JOBS_AT_ONCE;
  #parts;
  #act;

  /** `parts`: the elements `list`, `search`, `hidden`, `older` and `nothing`. `act`: see JobView. */
  constructor(parts, act) {
    this.#parts = parts;
    this.#act = { ...act, hide: (view) => this.#hide(view.jobId) };
    parts.search.addEventListener("input", () => this.#draw());
    parts.hidden.addEventListener("click", () => {
      parts.hidden.ariaPressed = String(parts.hidden.ariaPressed !== "true");
      this.#draw();
    });
    parts.older.addEventListener("click", () => {
      this.#wanted += JOBS_AT_ONCE;
      this.#draw();
    });
  }

  /** The records of all jobs, newest first. */
  get jobs() {
    return [...this.#jobs.values()];
  }

  /** The record of a job; undefined if there is none. */
  job(jobId) {
    return this.#jobs.get(jobId);
  }

  /** The card of a job, if it is shown. */
  view(jobId) {
    return this.#views.get(jobId);
  }

  /**
   * Take all jobs, newest first, that `request` resolves to. What is heard of a job meanwhile is
   * newer.
   */
  async load(request) {
    const heard = new Map();
    this.#heard.add(heard);
    try {
      const jobs = new Map((await request).map((job) => [job.job_id, job]));
      const isNew = ([jobId]) => !jobs.has(jobId);
      const newest = [...heard].filter(isNew).reverse();
      this.#jobs = new Map([...newest, ...[...jobs, ...heard].filter(([id]) => jobs.has(id))]);
    } finally {
      this.#heard.delete(heard);
    }
    keepUnderPointer(() => this.#draw());
  }

  /** Take a job that has changed, or is new. */
  hear(job) {
    for (const heard of this.#heard) heard.set(job.job_id, job);
    const isKnown = this.#jobs.has(job.job_id);
    if (isKnown) this.#jobs.set(job.job_id, job);
    else this.#jobs = new Map([[job.job_id, job], ...this.#jobs]);
    keepUnderPointer(() => (isKnown ? this.#views.get(job.job_id)?.update(job) : this.#draw()));
  }

  /** Show the card of a job, whatever is searched; undefined if it is none of those listed. */
  reveal(jobId) {
    if (!this.#jobs.has(jobId)) return undefined;
    if (!this.#views.has(jobId)) {
      this.#parts.search.value = "";
      if (this.#hidden.delete(jobId)) this.#saveHidden();
      this.#draw();
    }
    return this.#views.get(jobId);
  }

  #hide(jobId) {
    if (!this.#hidden.delete(jobId)) this.#hidden.add(jobId);
    this.#saveHidden();
    this.#draw();
    if (!this.#views.has(jobId)) this.#parts.hidden.focus();
  }

  #saveHidden() {
    localStorage.setItem(HIDDEN, JSON.stringify([...this.#hidden].filter((each) => this.#jobs.has(each))));
  }

  #draw() {
    const { search, hidden, older, nothing } = this.#parts;
    const words = search.value.trim().toLowerCase();
    const isFound = (job) => !words || textOf(job).includes(words);
    const [all, linked] = [this.jobs, location.hash.slice(1)];
    const isHidden = ({ job_id: jobId }) => this.#hidden.has(jobId);
    const showsHidden = hidden.ariaPressed === "true";
    const fitting = all.filter((job) => isFound(job) && (showsHidden || !isHidden(job)));
    const shown = fitting.filter((job, index) => index < this.#wanted || job.job_id === linked);
    this.#arrange(shown);
    const count = all.filter(isHidden).length;
    hidden.hidden = !count;
    show(hidden, showsHidden ? `Hide ${count} again` : `Show ${count} hidden`);
    show(nothing, words && !shown.length ? `No job with “${search.value.trim()}” in its title, address or id.` : "");
    older.hidden = fitting.length <= shown.length;
    show(older, `Show older jobs (${many(fitting.length - shown.length, "more job")})`);
    for (const view of this.#views.values()) view.isHidden = this.#hidden.has(view.jobId);
  }

  #arrange(jobs) {
    const { list } = this.#parts;
    const shown = new Set(jobs.map((job) => job.job_id));
    for (const [jobId, view] of this.#views) {
      if (shown.has(jobId)) continue;
      view.element.remove();
      this.#views.delete(jobId);
    }
    jobs.forEach((job, index) => {
      const view = this.#views.get(job.job_id) ?? this.#added(job.job_id);
      const there = list.children[index];
      if (there !== view.element) list.insertBefore(view.element, there ?? null);
      if (view.job !== job) view.update(job);
    });
  }

  #added(jobId) {
    const view = new JobView(jobId, this.#act);
    this.#views.set(jobId, view);
    return view;
  }
}

function textOf(job) {
  return [titleOf(job), job.job_id, job.first_url && fileOf(job.first_url), job.first_url, job.album?.link]
    .filter(Boolean).join("\n").toLowerCase();
}
