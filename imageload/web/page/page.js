// The page: a form that posts, and a list of jobs that is kept true. See follow.js for how it hears
// of them, service.js for what it asks, list.js and jobs.js for how they look, words.js for what it
// says, form.js for what is pasted, actions.js for what is done to a job.

import { actionsOf } from "./actions.js";
import { many, number, paragraph, show } from "./dom.js";
import { Follow } from "./follow.js";
import { UploadForm } from "./form.js";
import { showLimits } from "./limits.js";
import { JobList } from "./list.js";
import { Problem, allJobs, hasToken, quota, useToken } from "./service.js";
import { TARGET, countsOf, titleOf, untilOf } from "./words.js";

const QUOTA_MS = 5_000;

const [accepted, refused, watch, limits, tokenForm, token, tokenRefused, none, links] = [
  "accepted", "refused", "watch", "limits", "token-form", "token", "token-refused", "none", "links",
].map((id) => document.getElementById(id));
const [budgets, budgetList] = ["budgets", "budget-list"].map((id) => document.getElementById(id));

const posted = new Map(); // jobId: its line under the form; those that have not ended
let quotaTimer = 0;
let askedForQuota = -Infinity;
const list = new JobList(
  Object.fromEntries([["list", "jobs"], ["search", "search"], ["hidden", "hidden"], ["older", "older"],
    ["nothing", "nothing"]].map(([name, id]) => [name, document.getElementById(id)])),
  { ...actionsOf(askForToken), told: tellOf },
);
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
  const isNew = !list.view(linkedId());
  await list.load(allJobs());
  lock(false);
  links.hidden = hasToken(); // a browser that follows a link shows no token
  form.again();
  for (const jobId of posted.keys()) showPosted(jobId);
  if (isNew) showLinked();
}

function hearOf(job) {
  list.hear(job);
  showPosted(job.job_id);
  tellWatch();
}

async function loadNow() {
  try {
    await loadJobs();
    tellWatch();
  } catch (problem) {
    tellProblem(problem);
  }
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
  const jobId = linkedId();
  if (!jobId) return;
  const view = list.reveal(jobId);
  view?.open();
  view?.element.scrollIntoView();
  view?.element.focus({ preventScroll: true });
  if (!view) refused.replaceChildren(paragraph(`There is no job ${jobId.slice(0, 100)} here, or not any more.`));
}

// On a phone a new job is below all that can be seen, and above it if the pointer held the page.
function bringIntoView({ element }) {
  const { top } = element.getBoundingClientRect();
  const isSeen = top >= 0 && top < 0.75 * window.innerHeight;
  const isCalm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!isSeen) element.scrollIntoView({ behavior: isCalm ? "instant" : "smooth" });
}

// What was posted

function tellAccepted(jobId) {
  const line = paragraph("Accepted: ");
  const link = document.createElement("a");
  link.href = `#${jobId}`;
  link.textContent = "a job";
  line.append(link);
  accepted.append(line);
  posted.set(jobId, line);
}

function showPosted(jobId) {
  const line = posted.get(jobId);
  const job = line && list.job(jobId);
  if (!job) return;
  show(line.querySelector("a"), titleOf(job));
  if (!line.isShown) {
    line.isShown = true;
    const view = list.reveal(jobId);
    view?.open();
    if (view) bringIntoView(view);
  }
  if (!job.finished) return;
  posted.delete(jobId);
  line.firstChild.data = "Complete: ";
  line.append(`: ${countsOf(job, null)}.`);
  line.dataset.ended = "";
}

// What is told

function tellProblem(problem) {
  if (!(problem instanceof Problem)) throw problem;
  if (problem.wantsToken) {
    askForToken(problem);
    return;
  }
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
  const wasLocked = !tokenForm.hidden;
  lock(true);
  if (!wasLocked) token.focus();
  tokenRefused.textContent = hasToken() ? problem.message : "";
}

// Without a token nothing of the page works, so nothing else of it is shown.
function lock(isLocked) {
  const isHeld = tokenForm.contains(document.activeElement);
  tokenForm.hidden = !isLocked;
  document.body.classList.toggle("locked", isLocked);
  if (isHeld && !isLocked) form.focus();
}

function tellWatch({ problem, milliseconds } = {}) {
  if (!problem && watch.classList.contains("trouble")) refused.replaceChildren(); // it held until now
  watch.classList.toggle("trouble", Boolean(problem));
  if (problem?.wantsToken) {
    show(watch, problem.title);
    askForToken(problem);
    return;
  }
  if (problem) {
    show(watch, `${problem.title}. Trying again in ${milliseconds / 1_000} s.`);
    return;
  }
  const { jobs } = list;
  const open = jobs.filter((job) => !job.finished);
  const part = open.length < jobs.length ? `${number(open.length)} of ` : "";
  const busy = `${part}${many(jobs.length, "job")} ${open.length === 1 ? "is" : "are"} running.`;
  const quiet = jobs.length === 1 ? "The job has finished." : `All ${number(jobs.length)} jobs have finished.`;
  show(watch, open.length ? busy : jobs.length ? quiet : "No job yet.");
  none.hidden = jobs.length > 0;
  tellTitle(open);
  tellLimits(open.some((job) => job.waiting_for));
}

function tellTitle(open) {
  const [total, pending] = ["total", "pending"].map((name) => (
    open.reduce((sum, { counts }) => sum + counts[name], 0)
  ));
  const isWaiting = open.length && open.every((job) => job.waiting_for);
  const words = isWaiting ? `waiting for ${TARGET}, ` : "";
  document.title = open.length ? `${words}${number(total - pending)} of ${number(total)} · imageload` : "imageload";
}

// After everything that is heard, but not too often: what is heard last has to be right.
function tellLimits(isWaiting) {
  if (!isWaiting) limits.hidden = true;
  clearTimeout(quotaTimer);
  const isNew = isWaiting && limits.hidden;
  const pause = isNew ? 0 : askedForQuota + QUOTA_MS - performance.now();
  quotaTimer = setTimeout(() => askQuota(isWaiting), Math.max(0, pause));
}

async function askQuota(isWaiting) {
  askedForQuota = performance.now();
  try {
    const known = await quota();
    const { parked, done_at: doneAt } = known;
    const by = doneAt ? ` All will be uploaded by ${untilOf(doneAt)}.` : "";
    limits.hidden = !isWaiting;
    show(limits, `${many(parked, "image")} ${parked === 1 ? "waits" : "wait"} for ${TARGET}.${by}`);
    budgets.hidden = !showLimits(budgetList, known);
  } catch (problem) {
    tellOf(problem);
  }
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
document.getElementById("refresh").addEventListener("click", () => follow.now());
document.getElementById("example").addEventListener("click", (event) => {
  form.fill(event.currentTarget.dataset.text);
});
window.addEventListener("hashchange", () => {
  refused.replaceChildren();
  showLinked();
});
follow.now();
