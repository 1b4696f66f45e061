// What the page says of jobs and images, out of the service's records. Knows nothing of the document.

import { many, number } from "./dom.js";

const IS_BUCKET = document.documentElement.dataset.mode === "s3";

/** Where images go, in a sentence. */
export const TARGET = IS_BUCKET ? "the bucket" : "Imgur";
const THE_TARGET = IS_BUCKET ? "The bucket" : "Imgur";
const ASKED_FOR = ["cancelled", "purged"]; // codes of images that somebody wanted to end

const WAITS = {
  user: "Imgur’s hourly credits are used up.",
  client: "Imgur’s daily credits are used up.",
  month: "Imgur may have blocked this client id for the rest of the month.",
  posts: "Imgur accepts no more uploads from this address in this hour.",
  blocked: "Imgur refuses this service for now.",
  blocked_id: "Imgur refuses this client id.",
  blocked_address: "Imgur refuses this address.",
  credentials: `${THE_TARGET} rejects this service’s credentials: its operator has to correct them.`,
  unavailable: `${THE_TARGET} is down, or cannot be reached.`,
  unasked: "Imgur is being asked for its limits.",
  throttled: "The bucket’s service accepts fewer uploads at the moment.",
  lease: "Another node is uploading with this client id.",
};

const LATER = "Retry later.";
const OPEN_IT = "Open the address in a browser: is it right, and public?";
const OTHER_FORM = "Put a PNG or JPEG of it on the web, and upload that.";
const OPERATOR = "The operator of this service has to act: its log says more.";
const ADVICE = {
  invalid_url: "Correct the address, and upload it again.",
  http_status: OPEN_IT,
  bad_response: OPEN_IT,
  empty_body: OPEN_IT,
  too_many_redirects: OPEN_IT,
  bad_redirect: OPEN_IT,
  tls_error: "The host’s certificate is not valid: the host’s owner has to renew it.",
  blocked_address: "Private addresses are fetched only if the operator of this service allows them.",
  dns_error: "If the host’s name is right, retry later.",
  not_image: "This is the address of a page. Open it, and copy the address of the image itself.",
  removed_at_origin: "The host has removed it: look for another copy.",
  refused_at_origin: "Its host sends it to browsers only: put a copy elsewhere on the web.",
  too_large: "Put a smaller copy on the web, and upload that.",
  too_many_pixels: "Put a smaller copy on the web, and upload that.",
  unsupported_type: OTHER_FORM,
  conversion_failed: OTHER_FORM,
  metadata_kept: OTHER_FORM,
  upload_rejected: OTHER_FORM,
  disk_error: OPERATOR,
  internal_error: OPERATOR,
  poison: OPERATOR,
  bad_credentials: OPERATOR,
  access_denied: OPERATOR,
  clock_skew: OPERATOR,
  no_bucket: OPERATOR,
  wrong_region: OPERATOR,
};

/** What people call a job: its album, its document's file, or its first image's. */
export function titleOf({ job_id, album, document: name, first_url: url }) {
  return album?.title ?? name ?? (url ? fileOf(url) : job_id);
}

/** The last part of a URL's path, or what there is in its place. */
export function fileOf(url) {
  if (!URL.canParse(url)) return url;
  const { pathname, search, host } = new URL(url);
  const last = pathname.split("/").filter(Boolean).at(-1) ?? "";
  try {
    return decodeURIComponent(last) || search || host;
  } catch {
    return last; // a % that begins no escape
  }
}

/**
 * How many of a job's images `failed` without anybody wanting it, were `cancelled`, and `deleted`.
 * `reasons` is of `reasonsOf`, or null while it is not known: then `failed` is null too.
 */
export function endsOf({ counts: { failed } }, reasons) {
  if (!failed) return { failed: 0, cancelled: 0, deleted: 0 };
  if (!reasons) return { failed: null, cancelled: 0, deleted: 0 };
  const [cancelled, deleted] = ASKED_FOR.map((code) => reasons.get(code)?.count ?? 0);
  return { failed: Math.max(0, failed - cancelled - deleted), cancelled, deleted };
}

/** Of failed images' records: by code how many, and one of the messages. */
export function reasonsOf(records) {
  const reasons = new Map();
  for (const { error } of records) {
    const known = reasons.get(error.code);
    if (known) known.count += 1;
    else reasons.set(error.code, { count: 1, message: error.message });
  }
  return reasons;
}

/** The reasons of failures that nobody asked for, most frequent first, with what to do. */
export function failuresOf(reasons) {
  return [...reasons]
    .filter(([code]) => !ASKED_FOR.includes(code))
    .sort(([, one], [, other]) => other.count - one.count)
    .map(([code, { count, message }]) => ({ code, count, message, advice: ADVICE[code] ?? LATER }));
}

/** How far a job is: `state`, which has a colour, and `text`. */
export function stateOf(job, reasons) {
  const { counts: { total, pending, completed, failed }, finished, status, album } = job;
  if (!finished && job.waiting_for) {
    const until = job.waiting_until ? ` until ${untilOf(job.waiting_until)}` : "";
    return { state: "waiting", text: `waiting for ${TARGET}${until}` };
  }
  if (status === "pending") return { state: "queued", text: "waiting for its turn" };
  if (!finished && pending) {
    return { state: "busy", text: `uploading ${number(total - pending)} of ${number(total)}` };
  }
  if (!finished) {
    const isMaking = album && !album.link && !album.error;
    const deleting = completed ? `deleting ${number(completed)} from ${TARGET}` : `deleting from ${TARGET}`;
    return { state: "busy", text: isMaking ? "making the album" : deleting };
  }
  return endOf(completed, failed, endsOf(job, reasons));
}

function endOf(completed, notThere, { failed, cancelled, deleted }) {
  if (!notThere || failed === null) return { state: notThere ? "queued" : "good", text: "finished" };
  if (failed && !completed && !cancelled && !deleted) {
    return { state: "bad", text: failed === 1 ? "failed" : `all ${number(failed)} failed` };
  }
  if (failed && (completed || cancelled)) {
    return { state: "mixed", text: `${cancelled ? "cancelled" : "finished"}, ${number(failed)} failed` };
  }
  if (cancelled) return { state: "cancelled", text: "cancelled" };
  const part = completed ? `${number(deleted)} ` : "";
  return { state: "deleted", text: `${part}deleted from ${TARGET}` };
}

/** "3 uploaded, 1 failed, 2 to go"; what is 0 is left out. */
export function countsOf(job, reasons) {
  const { completed, pending, failed: notThere } = job.counts;
  const { failed, cancelled, deleted } = endsOf(job, reasons);
  const words = [
    [completed, "uploaded"],
    [failed ?? notThere, failed === null && job.finished ? "not uploaded" : "failed"],
    [cancelled, "cancelled"],
    [deleted, "deleted"],
    [pending, "to go"],
  ];
  return words.filter(([count]) => count).map(([count, word]) => `${number(count)} ${word}`).join(", ");
}

/** Why a job waits; nothing where it does not. */
export function waitOf({ finished, waiting_for: reason }) {
  if (finished || !reason) return "";
  return `${WAITS[reason] ?? reason} The job continues by itself.`;
}

/** What became of an image: `state`, which has a colour, and `text`. */
export function imageStateOf({ state, error }) {
  if (state === "failed" && error.code === "cancelled") return { state: "cancelled", text: "cancelled" };
  if (state === "failed" && error.code === "purged") return { state: "deleted", text: "deleted" };
  const words = {
    queued: ["queued", "queued"],
    downloaded: ["busy", "uploading"],
    completed: ["good", "uploaded"],
    failed: ["bad", "failed"],
  };
  const [colour, text] = words[state];
  return { state: colour, text };
}

/** A moment of today as its time, another one with its day. */
export function momentOf(text) {
  const moment = new Date(text);
  const time = moment.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
  const isToday = moment.toDateString() === new Date().toDateString();
  return isToday ? time : `${time} on ${moment.toLocaleDateString()}`;
}

/** The end of a wait: the next full minute, or it would seem to be over while it still lasts. */
export function untilOf(text) {
  return momentOf(Math.ceil(Date.parse(text) / 60_000) * 60_000);
}

/** "40 s", "3 minutes", "2 hours". */
export function durationOf(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5_400) return many(Math.round(seconds / 60), "minute");
  return many(Math.round(seconds / 3_600), "hour");
}
