// What is done to a job by its card's buttons, and the dialogs that this needs.

import { many, show } from "./dom.js";
import { linksAs } from "./links.js";
import { webURL } from "./rows.js";
import { Problem, allRecords, cancel, documentOf, retry } from "./service.js";
import { TARGET, endsOf, fileOf } from "./words.js";

const SAVING_MS = 60_000; // a browser may ask first where to save
const SAID_MS = 2_000;

const [undoDialog, copyDialog, largeDialog] = ["undo-dialog", "copy-dialog", "large-dialog"].map(
  (id) => document.getElementById(id),
);
for (const dialog of [undoDialog, copyDialog, largeDialog]) {
  dialog.addEventListener("click", (event) => {
    const { value } = event.target.closest("button") ?? {};
    if (value) dialog.close(value);
  });
}

/** The functions that JobView calls. `askForToken` is called with a Problem that wants a token. */
export function actionsOf(askForToken) {
  async function act(view, work, later) {
    view.tell("");
    try {
      view.tell(await work(), later);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      view.tell(`${problem.title}: ${problem.message}`);
      if (problem.wantsToken) askForToken(problem);
    }
  }
  return {
    retry: (view) => act(view, () => retried(view)),
    cancel: (view) => act(view, () => cancelled(view)),
    undo: (view) => undo(view, () => {
      let end;
      act(view, async () => {
        const { words, later } = await purged(view);
        end = later;
        return words;
      }, (job) => end?.(job));
    }),
    copy: (view, button) => act(view, () => copyLinks(view, button)),
    copyId: (view, button) => act(view, () => copied(view.jobId, "The id is copied.", button)),
    copyDocument: (view, button) => act(view, () => copyDocument(view, button)),
    saveDocument: (view) => act(view, () => saveDocument(view)),
    retryImage: (view, record) => act(view, () => retriedImage(view, record)),
    copyLink: ({ link }, button) => copied(link, "", button),
    enlarge,
  };
}

async function retriedImage(view, { number, url }) {
  const count = await retry(view.jobId, number);
  return count ? `${fileOf(url)} is tried again.` : `${fileOf(url)} is no longer among the failed.`;
}

// A retry takes what it can cure; a second one takes the rest too.
async function retried(view) {
  const { failed: broken } = endsOf(view.job, view.reasons);
  const onlyTransient = broken > 0 && !view.retriesAll;
  const count = await retry(view.jobId, onlyTransient ? "transient" : "");
  const rest = onlyTransient ? broken - count : 0;
  view.retriesAll = rest > 0;
  if (!rest) return `${many(count, "image")} ${isOrAre(count)} tried again.`;
  const words = count ? `${many(count, "image")} ${isOrAre(count)} tried again. ` : "";
  return `${words}${many(rest, "image")} would fail again: see the reasons for what to do first.`;
}

async function cancelled(view) {
  const { cancelled: count } = await cancel(view.jobId);
  return `${many(count, "image")} cancelled.`;
}

function undo(view, purge) {
  const { completed, pending } = view.job.counts;
  const rest = pending ? ` ${many(pending, "image")} not yet uploaded will be cancelled.` : "";
  const links = completed === 1 ? "its link" : "their links";
  const words = `${many(completed, "image")} will be deleted from ${TARGET}, and ${links} will stop working.`;
  show(undoDialog.querySelector("p"), `${words}${rest} This cannot be undone.`);
  show(undoDialog.querySelector(".yes"), `Delete ${many(completed, "image")}`);
  undoDialog.onclose = () => {
    if (undoDialog.returnValue === "yes") purge();
  };
  undoDialog.returnValue = "";
  undoDialog.showModal();
}

async function purged(view) {
  const { purging } = await cancel(view.jobId, { purge: true });
  let hasBegun = false;
  const later = ({ finished, counts: { completed } }) => {
    hasBegun ||= !finished || completed < purging;
    const kept = completed ? ` ${many(completed, "image")} could not be deleted.` : "";
    return hasBegun && finished ? `${many(purging - completed, "image")} deleted from ${TARGET}.${kept}` : "";
  };
  return { words: `${many(purging, "image")} ${isOrAre(purging)} being deleted from ${TARGET}.`, later };
}

async function copyLinks(view, button) {
  const records = await allRecords(view.jobId, "completed");
  return copied(linksAs(view.format, records), `${many(records.length, "link")} copied.`, button);
}

async function copyDocument(view, button) {
  const content = await documentOf(view.jobId);
  const charset = content.type.match(/charset="?([\w-]+)/i)?.[1] ?? "utf-8";
  const text = new TextDecoder(charset).decode(await content.arrayBuffer());
  return copied(text, `${view.job.document} copied.`, button);
}

async function saveDocument(view) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await documentOf(view.jobId));
  link.download = view.job.document;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), SAVING_MS);
  return `${view.job.document} saved.`;
}

async function copied(text, words, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not over plain http, unless from this machine; nor where the user forbids it
    const box = copyDialog.querySelector("textarea");
    box.value = text;
    copyDialog.showModal();
    box.select();
    return "";
  }
  sayOn(button, "Copied");
  return words;
}

function sayOn(button, text) {
  button.dataset.label ??= button.textContent;
  button.style.minWidth ||= `${button.getBoundingClientRect().width}px`; // or its neighbours would move
  button.textContent = text;
  clearTimeout(button.saying);
  button.saying = setTimeout(() => (button.textContent = button.dataset.label), SAID_MS);
}

function enlarge({ link, url }) {
  const picture = largeDialog.querySelector("img");
  const anchor = largeDialog.querySelector("a");
  picture.src = anchor.href = webURL(link).href;
  picture.alt = fileOf(url);
  show(anchor, link);
  largeDialog.showModal();
}

function isOrAre(count) {
  return count === 1 ? "is" : "are";
}
