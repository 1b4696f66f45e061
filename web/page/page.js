// The page: a form that posts, a list of jobs that is kept true. See poll.js for when it asks,
// service.js for what, jobs.js for how a job looks.

import { JobView, anchor, countsOf } from "./jobs.js";
import { Poll } from "./poll.js";
import { Problem, hasToken, newestJobs, upload, useToken } from "./service.js";

const JOBS_AT_ONCE = 50;

const [form, urls, send, accepted, refused, refresh, watch, list, older] = [
  "upload", "urls", "send", "accepted", "refused", "refresh", "watch", "jobs", "older",
].map((id) => document.getElementById(id));
const [tokenForm, token, tokenRefused, links] = [
  "token-form", "token", "token-refused", "links",
].map((id) => document.getElementById(id));

const views = new Map(); // jobId: JobView
const posted = new Map(); // jobId: its line under the form; those that have not ended
let wanted = JOBS_AT_ONCE;
const poll = new Poll(loadJobs, tellWatch);

async function loadJobs() {
  const answer = await newestJobs(wanted);
  tokenForm.hidden = true;
  links.hidden = hasToken(); // a browser that follows a link shows no token
  older.hidden = !answer.older;
  arrange(answer.jobs);
  for (const view of [...views.values()]) await view.loadImages();
  answer.jobs.filter((job) => job.finished && posted.has(job.job_id)).forEach(tellEnd);
  return answer.jobs.filter((job) => !job.finished).length;
}

function arrange(jobs) {
  const known = new Set(jobs.map((job) => job.job_id));
  for (const [jobId, view] of views) {
    if (known.has(jobId)) continue;
    view.element.remove();
    views.delete(jobId);
  }
  jobs.forEach((job, index) => {
    const view = views.get(job.job_id) ?? added(job.job_id);
    view.update(job);
    const there = list.children[index];
    if (there !== view.element) list.insertBefore(view.element, there ?? null);
  });
}

function added(jobId) {
  const view = new JobView(jobId, () => poll.now());
  views.set(jobId, view);
  if (posted.has(jobId) || location.hash === `#${anchor(jobId)}`) view.open();
  return view;
}

async function post() {
  if (urls.readOnly) return;
  urls.readOnly = true;
  send.textContent = "Sending…";
  accepted.querySelectorAll("[data-ended]").forEach((line) => line.remove());
  refused.replaceChildren();
  try {
    const jobIds = await upload(urls.value);
    urls.value = "";
    jobIds.forEach(tellAccepted);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.wantsToken) askForToken(problem);
    const title = document.createElement("strong");
    title.textContent = problem.title;
    refused.append(title, paragraph(problem.message));
    if (urls.value.trim()) refused.append(paragraph("Your list is still in the box."));
  } finally {
    urls.readOnly = false;
    send.textContent = "Upload";
  }
  poll.now();
}

function askForToken(problem) {
  const wasHidden = tokenForm.hidden;
  tokenForm.hidden = false;
  if (wasHidden) token.focus();
  tokenRefused.textContent = hasToken() ? problem.message : "";
}

function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}

function tellAccepted(jobId) {
  const line = paragraph("Accepted. jobId: ");
  const link = document.createElement("a");
  link.href = `#${anchor(jobId)}`;
  link.textContent = jobId;
  line.append(link);
  accepted.append(line);
  posted.set(jobId, line);
  views.get(jobId)?.open(); // a poll may have met it before us
}

function tellEnd(job) {
  const line = posted.get(job.job_id);
  posted.delete(job.job_id);
  line.firstChild.data = "Complete. jobId: ";
  line.append(`: ${countsOf(job)}`);
  line.dataset.ended = "";
}

function tellWatch({ unfinished, problem, milliseconds }) {
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
  const busy = unfinished === 1 ? "1 job is unfinished" : `${unfinished} jobs are unfinished`;
  const text = unfinished
    ? `${busy}; this list follows.`
    : views.size
      ? "Every job is complete."
      : "No job yet. Paste some URLs above.";
  if (watch.textContent !== text) watch.textContent = text;
}

tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(token.value.trim());
  token.value = "";
  tokenRefused.replaceChildren();
  refused.replaceChildren();
  poll.now();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  post();
});
urls.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
refresh.addEventListener("click", () => poll.now());
older.addEventListener("click", () => {
  wanted += JOBS_AT_ONCE;
  poll.now();
});
document.addEventListener("visibilitychange", () => document.hidden || poll.now());
window.addEventListener("online", () => poll.now());
poll.now();
