// The page: a form that posts, and a list of jobs that is kept true. See follow.js for how it hears
// of them, service.js for what it asks, jobs.js for how a job looks, form.js for what is pasted.

import { many, number, paragraph, show } from "./dom.js";
import { Follow } from "./follow.js";
import { UploadForm } from "./form.js";
import { JobView, countsOf, momentOf, titleOf } from "./jobs.js";
import { linksAs } from "./links.js";
import {
  Problem, allRecords, cancel, documentOf, hasToken, jobOf, newestJobs, quota, retry, useToken,
} from "./service.js";

const JOBS_AT_ONCE = 50;
const JOB_ID = /^[\w-]{1,100}$/;
const RELOAD_MS = 500;
const QUOTA_MS = 5_000;
const SAVING_MS = 60_000; // a browser may ask first where to save

const [accepted, refused, watch, limits, list, older] = [
  "accepted", "refused", "watch", "limits", "jobs", "older",
].map((id) => document.getElementById(id));
const [tokenForm, token, tokenRefused, none, links, undoDialog, copyDialog] = [
  "token-form", "token", "token-refused", "none", "links", "undo-dialog", "copy-dialog",
].map((id) => document.getElementById(id));

const views = new Map(); // jobId: JobView
const posted = new Map(); // jobId: its line under the form; those that have not ended
const linked = new Map(); // jobId: a job that the address names and the list does not reach
let wanted = JOBS_AT_ONCE;
let reload = 0;
let quotaTimer = 0;
let askedForQuota = -Infinity;
const form = new UploadForm(document.getElementById("upload"), {
  accepted: (jobIds) => {
    jobIds.forEach(tellAccepted);
    loadNow();
  },
  clear: () => {
    accepted.querySelectorAll("[data-ended]").forEach((line) => line.remove());
    refused.replaceChildren();
  },
  problem: tellProblem,
  refuse,
});
const follow = new Follow({ load: loadJobs, hear: hearOf, tell: tellWatch });

// The list

async function loadJobs() {
  const answer = await newestJobs(wanted);
  await loadLinked(answer.jobs);
  const isHeld = tokenForm.contains(document.activeElement);
  tokenForm.hidden = true;
  if (isHeld) form.focus();
  form.again();
  links.hidden = hasToken(); // a browser that follows a link shows no token
  older.hidden = !answer.older;
  const isNew = !views.has(linkedId());
  arrange([...answer.jobs, ...linked.values()]);
  if (isNew) showLinked();
}

function arrange(jobs) {
  const known = new Set(jobs.map((job) => job.job_id));
  for (const [jobId, view] of views) {
    if (known.has(jobId)) continue;
    view.element.remove();
    views.delete(jobId);
  }
  jobs.forEach((job, index) => {
    const isOurs = !views.has(job.job_id) && posted.has(job.job_id);
    const view = views.get(job.job_id) ?? added(job.job_id);
    const there = list.children[index];
    if (there !== view.element) list.insertBefore(view.element, there ?? null);
    update(view, job);
    if (isOurs) bringIntoView(view);
  });
}

// On a phone a new job is below all that can be seen.
function bringIntoView({ element }) {
  const isSeen = element.getBoundingClientRect().top < 0.75 * window.innerHeight;
  const isCalm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!isSeen) element.scrollIntoView({ behavior: isCalm ? "instant" : "smooth" });
}

function added(jobId) {
  const view = new JobView(jobId, {
    retry: retryFailed, cancel: cancelJob, undo, copy, copyDocument, saveDocument, told: tellOf,
  });
  views.set(jobId, view);
  if (posted.has(jobId)) view.open();
  return view;
}

function update(view, job) {
  view.update(job);
  if (job.finished && posted.has(job.job_id)) tellEnd(job);
}

function hearOf(job) {
  const view = views.get(job.job_id);
  if (linked.has(job.job_id)) linked.set(job.job_id, job);
  if (view) update(view, job);
  else loadSoon();
  tellWatch();
}

function loadSoon() {
  reload ||= setTimeout(loadNow, RELOAD_MS);
}

async function loadNow() {
  clearTimeout(reload);
  reload = 0;
  await attempt(loadJobs, tellProblem);
  tellWatch();
}

function linkedId() {
  const text = location.hash.slice(1);
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a % that begins no escape
  }
}

function showLinked() {
  const view = views.get(linkedId());
  view?.open();
  view?.element.scrollIntoView();
  view?.element.focus({ preventScroll: true });
}

async function loadLinked(jobs) {
  const jobId = linkedId();
  linked.clear();
  if (!jobId || jobs.some((job) => job.job_id === jobId)) return;
  try {
    if (JOB_ID.test(jobId)) {
      linked.set(jobId, await jobOf(jobId));
      return;
    }
  } catch (problem) {
    if (!(problem instanceof Problem) || ![404, 505].includes(problem.status)) throw problem;
  }
  refused.replaceChildren(paragraph(`There is no job ${jobId.slice(0, 100)} here, or not any more.`));
}

// What was posted

function tellAccepted(jobId) {
  const line = paragraph("Accepted: ");
  const link = document.createElement("a");
  link.href = `#${jobId}`;
  link.textContent = jobId;
  line.append(link);
  accepted.append(line);
  posted.set(jobId, line);
  const view = views.get(jobId);
  if (!view) return;
  view.open(); // an event was quicker than the answer
  bringIntoView(view);
}

function tellEnd(job) {
  const line = posted.get(job.job_id);
  posted.delete(job.job_id);
  line.firstChild.data = "Complete: ";
  line.querySelector("a").textContent = titleOf(job);
  line.append(`: ${countsOf(job)}.`);
  line.dataset.ended = "";
}

// What is done to a job

function retryFailed(view) {
  return act(view, async () => {
    const count = await retry(view.jobId);
    return `${many(count, "image")} ${count === 1 ? "is" : "are"} tried again.`;
  });
}

function cancelJob(view) {
  return act(view, async () => {
    const { cancelled } = await cancel(view.jobId);
    return `${many(cancelled, "image")} cancelled.`;
  });
}

function undo(view) {
  const { completed, pending } = view.job.counts;
  const rest = pending ? ` ${many(pending, "image")} not yet there will be cancelled.` : "";
  const words = `${many(completed, "image")} will be deleted from Imgur, and every link to ${completed === 1 ? "it" : "them"} will be dead.${rest} This cannot be taken back.`;
  show(undoDialog.querySelector("p"), words);
  show(undoDialog.querySelector(".yes"), `Delete ${many(completed, "image")}`);
  undoDialog.onclose = () => {
    if (undoDialog.returnValue === "yes") purge(view);
  };
  undoDialog.returnValue = "";
  undoDialog.showModal();
}

function purge(view) {
  let purging = 0;
  let hasBegun = false;
  const end = ({ finished, counts: { completed } }) => {
    hasBegun ||= !finished || completed < purging;
    const kept = completed ? ` ${many(completed, "image")} could not be.` : "";
    return hasBegun && finished ? `${many(purging - completed, "image")} deleted from Imgur.${kept}` : "";
  };
  return act(view, async () => {
    ({ purging } = await cancel(view.jobId, { purge: true }));
    return `${many(purging, "image")} ${purging === 1 ? "is" : "are"} being deleted from Imgur.`;
  }, end);
}

function copy(view) {
  return act(view, async () => {
    const records = await allRecords(view.jobId, "completed");
    return copied(linksAs(view.format, records), `${many(records.length, "link")} copied.`);
  });
}

function copyDocument(view) {
  return act(view, async () => {
    const content = await documentOf(view.jobId);
    const charset = content.type.match(/charset="?([\w-]+)/i)?.[1] ?? "utf-8";
    const text = new TextDecoder(charset).decode(await content.arrayBuffer());
    return copied(text, `${view.job.document} copied.`);
  });
}

function saveDocument(view) {
  return act(view, async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await documentOf(view.jobId));
    link.download = view.job.document;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), SAVING_MS);
    return `${view.job.document} saved.`;
  });
}

async function copied(text, words) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not over plain http, unless from this machine; nor where the user forbids it
    const box = copyDialog.querySelector("textarea");
    box.value = text;
    copyDialog.showModal();
    box.select();
    return "";
  }
  return words;
}

function act(view, work, later) {
  view.tell("");
  return attempt(
    async () => view.tell(await work(), later),
    (problem) => {
      view.tell(`${problem.title}: ${problem.message}`);
      if (problem.wantsToken) askForToken(problem);
    },
  );
}

async function attempt(work, tell) {
  try {
    await work();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    tell(problem);
  }
}

// What is told

function tellProblem(problem) {
  if (!(problem instanceof Problem)) throw problem;
  if (problem.wantsToken) askForToken(problem);
  const title = document.createElement("strong");
  title.textContent = problem.title;
  refuse(title, paragraph(problem.message));
}

function refuse(...words) {
  refused.append(...words);
  refused.scrollIntoView({ block: "nearest" });
}

// Of what the page does by itself; should it go on, the stream breaks too, and says so.
function tellOf(problem) {
  if (!(problem instanceof Problem)) throw problem;
  if (problem.wantsToken) askForToken(problem);
}

function askForToken(problem) {
  const wasHidden = tokenForm.hidden;
  tokenForm.hidden = false;
  if (wasHidden) token.focus();
  tokenRefused.textContent = hasToken() ? problem.message : "";
}

function tellWatch({ problem, milliseconds } = {}) {
  watch.classList.toggle("trouble", Boolean(problem));
  if (problem?.wantsToken) {
    watch.textContent = problem.title;
    askForToken(problem);
    return;
  }
  if (problem) {
    watch.textContent = `${problem.title}: asking again in ${milliseconds / 1_000} s.`;
    return;
  }
  const jobs = [...views.values()].map((view) => view.job);
  const unfinished = jobs.filter((job) => !job.finished).length;
  const busy = `${many(unfinished, "job")} ${unfinished === 1 ? "is" : "are"} at work`;
  const quiet = jobs.length ? "Every job is complete." : "No job yet.";
  show(watch, unfinished ? `${busy}; this list keeps up by itself.` : quiet);
  none.hidden = jobs.length > 0;
  tellLimits(jobs.some((job) => job.waiting_for));
}

async function tellLimits(isWaiting) {
  limits.hidden = !isWaiting;
  clearTimeout(quotaTimer);
  if (!isWaiting) return;
  const pause = askedForQuota + QUOTA_MS - performance.now();
  if (pause > 0) {
    // What is heard last before a long wait is what has to be right.
    quotaTimer = setTimeout(() => tellLimits(true), pause);
    return;
  }
  askedForQuota = performance.now();
  await attempt(async () => {
    const { parked, done_at: doneAt } = await quota();
    const by = doneAt ? ` Within Imgur’s limits all will be done by ${momentOf(doneAt)}.` : "";
    show(limits, `${many(parked, "image")} ${parked === 1 ? "waits" : "wait"} for Imgur.${by}`);
  }, tellOf);
}

// What the user does

tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(token.value.trim());
  token.value = "";
  tokenRefused.replaceChildren();
  refused.replaceChildren();
  follow.now();
});
for (const dialog of [undoDialog, copyDialog]) {
  dialog.addEventListener("click", (event) => {
    const { value } = event.target.closest("button") ?? {};
    if (value) dialog.close(value);
  });
}
document.getElementById("refresh").addEventListener("click", () => follow.now());
older.addEventListener("click", () => {
  wanted += JOBS_AT_ONCE;
  loadSoon();
});
window.addEventListener("hashchange", async () => {
  refused.replaceChildren();
  if (views.has(linkedId())) showLinked();
  else await attempt(loadJobs, tellProblem);
});
follow.now();
