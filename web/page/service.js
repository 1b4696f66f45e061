// What the page asks of the service: jobs, their images, an upload. Knows nothing of the document.

const TOKEN = "imageload-token";

const ANSWER_MS = 30_000;
const UPLOAD_MS = 120_000;
const IMAGES_A_PAGE = 250;
const MOST_JOBS_A_PAGE = 1_000;

/**
 * Why there is no answer to work with: a title and a detail, both for people. `wantsToken`: the
 * service answers, but not to us.
 */
export class Problem extends Error {
  constructor(title, detail, wantsToken = false) {
    super(detail);
    this.title = title;
    this.wantsToken = wantsToken;
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

/** Post `text`, URLs with newlines or commas between them; the jobIds, or a Problem. */
export async function upload(text) {
  const { body } = await ask("/v1/images/upload", UPLOAD_MS, {
    method: "POST",
    headers: { "Content-Type": "text/plain; charset=utf-8" },
    body: text,
  });
  return body.jobId;
}

/** The newest `count` jobs, newest first, and whether there are `older` ones. */
export async function newestJobs(count) {
  const jobs = [];
  let next = `/v1/images/upload?limit=${Math.min(count, MOST_JOBS_A_PAGE)}`;
  while (next && jobs.length < count) {
    const page = await ask(next, ANSWER_MS);
    jobs.push(...page.body.jobs);
    next = page.next;
  }
  return { jobs: jobs.slice(0, count), older: Boolean(next) || jobs.length > count };
}

/** The records behind the first `after` images of a job, as the pages that they come in. */
export async function* imagePages(jobId, after) {
  const start = after ? `&after=${after}` : "";
  const path = `/v1/images/upload/${encodeURIComponent(jobId)}/images`;
  let next = `${path}?limit=${IMAGES_A_PAGE}${start}`;
  while (next) {
    const page = await ask(next, ANSWER_MS);
    yield page.body.images;
    next = page.next;
  }
}

async function ask(path, milliseconds, request = {}) {
  let answer, body;
  try {
    const signal = AbortSignal.timeout(milliseconds);
    const headers = { ...request.headers, ...authorization() };
    answer = await fetch(path, { cache: "no-store", ...request, headers, signal });
    body = isJson(answer) ? await answer.json() : null;
  } catch {
    throw new Problem(
      "The service cannot be reached",
      `Nothing came back from ${location.origin}. Is the service still running?`,
    );
  }
  if (!answer.ok || body === null) throw problemOf(answer, body);
  return { body, next: nextPage(answer) };
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
    body?.detail ?? "That is no answer of this service: is something else in front of it?",
    answer.status === 401,
  );
}

// RFC 8288, as far as the service writes it.
function nextPage(answer) {
  return answer.headers.get("Link")?.match(/<([^>]*)>\s*;\s*rel="?next"?/)?.[1] ?? null;
}
