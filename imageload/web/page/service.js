// What the page asks of the service, and what it is told. Knows nothing of the document.

const TOKEN = "imageload-token";

const ANSWER_MS = 30_000;
const UPLOAD_MS = 120_000;
// The service sends something every 15 s, unless its operator wants it otherwise.
const SILENCE_MS = 60_000;
const MOST_JOBS_A_PAGE = 1_000;
const MOST_RECORDS_A_PAGE = 10_000;

/**
 * Why there is no answer to work with: a title and a detail, both for people. `wantsToken`: the
 * service answers, but not to us.
 */
export class Problem extends Error {
  constructor(title, detail, status = 0) {
    super(detail);
    this.title = title;
    this.status = status;
    this.wantsToken = status === 401;
  }
}

/** Show `token` to the service from now on, as long as this tab is open. */
export function useToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Whether there is a token to show. */
export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

/** Post an order: `urls`, and where they are wanted `album`, `title`, `description`; the jobIds. */
export async function upload(order) {
  const { body } = await ask("/v1/images/upload", UPLOAD_MS, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(order),
  });
  return body.jobId;
}

/**
 * What is in `files` to upload: for each of them `kind`, `images` and `ignored`. `base` makes
 * relative URLs absolute; `signal` may abort it.
 */
export async function preview(files, base = "", signal = null) {
  const path = `/v1/documents?${new URLSearchParams({ dry_run: "true", ...(base && { base }) })}`;
  const { body } = await ask(path, UPLOAD_MS, { method: "POST", body: formOf(files, []), signal });
  return body.documents;
}

/**
 * Post `files`, a job each, without the images of the URLs `skip`; the jobIds. `options`: `album`,
 * `title`, `description`, `base`; empty ones do not count.
 */
export async function uploadDocuments(files, options, skip) {
  const query = new URLSearchParams(Object.entries(options).filter(([, text]) => text));
  const request = { method: "POST", body: formOf(files, skip) };
  return (await ask(`/v1/documents?${query}`, UPLOAD_MS, request)).body.jobId;
}

function formOf(files, skip) {
  const form = new FormData();
  for (const file of files) form.append("document", file, file.name);
  if (skip.length) form.append("skip", skip.join("\n"));
  return form;
}

/** A job's document with the links that there are: its bytes, as a Blob of its content type. */
export async function documentOf(jobId) {
  const signal = AbortSignal.timeout(ANSWER_MS);
  const path = `${pathOf(jobId)}/document`;
  const answer = await reached(fetch(path, { cache: "no-store", headers: authorization(), signal }));
  if (!answer.ok) throw problemOf(answer, isJson(answer) ? await reached(answer.json()) : null);
  return reached(answer.blob());
}

/** All jobs, newest first. */
export function allJobs() {
  return allOf(`/v1/images/upload?limit=${MOST_JOBS_A_PAGE}`, "jobs");
}

/** So many records behind the first `after` images of a job. */
export async function records(jobId, after, count) {
  const start = after ? `&after=${after}` : "";
  const { body } = await ask(`${pathOf(jobId)}/images?limit=${count}${start}`, ANSWER_MS);
  return body.images;
}

/** All records of a job; with `state` only those in it. */
export function allRecords(jobId, state = "") {
  const filter = state && `&state=${state}`;
  return allOf(`${pathOf(jobId)}/images?limit=${MOST_RECORDS_A_PAGE}${filter}`, "images");
}

async function allOf(path, key) {
  const found = [];
  for (let next = path; next;) {
    const page = await ask(next, ANSWER_MS);
    found.push(...page.body[key]);
    next = page.next;
  }
  return found;
}

/**
 * Try the job's failed images again, how many; `only` those that may land then ("transient"), or
 * the image of a number.
 */
export async function retry(jobId, only = "") {
  const path = `${pathOf(jobId)}/retry${only && `?only=${only}`}`;
  const { body } = await ask(path, ANSWER_MS, { method: "POST" });
  return body.requeued;
}

/** End what has not ended; with `purge` delete what has landed too. How many images: both counts. */
export async function cancel(jobId, { purge = false } = {}) {
  const path = `${pathOf(jobId)}${purge ? "?purge=true" : ""}`;
  const { body } = await ask(path, ANSWER_MS, { method: "DELETE" });
  return body;
}

/** Imgur's budgets, and when all that is pending will be done. */
export async function quota() {
  return (await ask("/v1/quota", ANSWER_MS)).body;
}

/**
 * What happens to all jobs, as `{ name, data }`, until `signal` aborts it or it ends. The first one
 * has no name: from then on nothing is missed. Not an EventSource, which cannot show a token.
 */
export async function* events(signal) {
  const silence = new AbortController();
  const signals = AbortSignal.any([signal, silence.signal]);
  const watchdog = () => setTimeout(() => silence.abort(), SILENCE_MS);
  let timer = watchdog();
  try {
    const headers = { Accept: "text/event-stream", ...authorization() };
    const answer = await reached(fetch("/v1/events", { cache: "no-store", headers, signal: signals }));
    if (!answer.ok) throw problemOf(answer, isJson(answer) ? await answer.json() : null);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reached(reader.read());
      if (done) return;
      clearTimeout(timer);
      timer = watchdog();
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      yield* parts.map(eventOf);
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

function eventOf(part) {
  const field = (name) => part.match(new RegExp(`^${name}: ?(.*)$`, "m"))?.[1] ?? "";
  return { name: field("event"), data: field("data") };
}

function pathOf(jobId) {
  return `/v1/images/upload/${encodeURIComponent(jobId)}`;
}

async function ask(path, milliseconds, request = {}) {
  const signal = AbortSignal.any([AbortSignal.timeout(milliseconds), request.signal].filter(Boolean));
  const headers = { ...request.headers, ...authorization() };
  const answer = await reached(fetch(path, { cache: "no-store", ...request, headers, signal }));
  const body = isJson(answer) ? await reached(answer.json()) : null;
  if (!answer.ok || body === null) throw problemOf(answer, body);
  return { body, next: nextPage(answer) };
}

async function reached(promise) {
  try {
    return await promise;
  } catch {
    throw new Problem(
      "The service cannot be reached",
      `${location.origin} does not respond. Is the service running?`,
    );
  }
}

function authorization() {
  return hasToken() ? { Authorization: `Bearer ${sessionStorage.getItem(TOKEN)}` } : {};
}

function isJson(answer) {
  return /^application\/([a-z.]+\+)?json\b/.test(answer.headers.get("Content-Type") ?? "");
}

function problemOf(answer, body) {
  return new Problem(
    body?.title ?? `Answer ${answer.status}`,
    body?.detail ?? "This is not a response of the service: is a proxy in front of it?",
    answer.status,
  );
}

// RFC 8288, as far as the service writes it.
function nextPage(answer) {
  return answer.headers.get("Link")?.match(/<([^>]*)>\s*;\s*rel="?next"?/)?.[1] ?? null;
}
