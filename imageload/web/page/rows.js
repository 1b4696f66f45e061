// One image of a job as a row. What strangers wrote (a URL, a message, a link) becomes text, or an
// href after `webURL` has looked at it; nothing is read as markup.

import { clone, partsOf, setOrRemove, show } from "./dom.js";
import { TARGET, fileOf, imageStateOf } from "./words.js";

const THUMBNAIL = "b"; // Imgur's square of 160 pixels

export class ImageRow {
  #parts;
  #record = null;
  #shown = "";
  #picture = null;

  /** `act` has `copyLink`, `enlarge` and `retry`, which are called with a record and the button. */
  constructor(act) {
    this.element = clone("image-template");
    this.#parts = partsOf(this.element, {
      enlarge: ".thumbnail", thumbnail: "img", state: ".state", code: ".code", size: ".size",
      name: ".name", source: "bdi", link: ".link", anchor: "a", reason: ".reason", copy: ".copy-link",
      retry: ".retry-image",
    });
    const { thumbnail, enlarge, copy, retry } = this.#parts;
    thumbnail.addEventListener("error", () => (thumbnail.hidden = true));
    enlarge.addEventListener("click", () => act.enlarge(this.#record, enlarge));
    copy.addEventListener("click", () => act.copyLink(this.#record, copy));
    retry.addEventListener("click", () => act.retry(this.#record, retry));
  }

  /**
   * Show `record`, one of a job's images; nothing where it has not come yet. The picture of a row
   * that only passes by is not asked for.
   */
  update(record, isPassing) {
    if (!this.#shown || record !== this.#record) this.#showRecord(record);
    const { thumbnail } = this.#parts;
    const picture = isPassing && thumbnail.src !== this.#picture ? null : this.#picture;
    if (setOrRemove(thumbnail, "src", picture)) thumbnail.hidden = !picture;
  }

  #showRecord(record) {
    this.#record = record;
    const key = JSON.stringify(record ?? null);
    if (key === this.#shown) return;
    this.#shown = key;
    const { state, size, name, source } = this.#parts;
    const { state: colour, text } = record ? imageStateOf(record) : { state: "queued", text: "…" };
    this.element.dataset.state = state.dataset.state = colour;
    show(state, text);
    show(size, record ? factsOf(record) : "");
    show(name, record ? fileOf(record.url) : "");
    show(source, record?.url ?? "");
    setOrRemove(source, "title", record?.url);
    this.#showLink(record?.link, record?.url);
    this.#showReason(record?.error, colour);
    this.#showRetry(record, colour);
  }

  #showLink(link, source) {
    const { enlarge, link: line, anchor, copy } = this.#parts;
    const url = webURL(link);
    line.hidden = copy.hidden = !link;
    enlarge.disabled = !url;
    enlarge.ariaLabel = url ? `Open ${fileOf(source)} large` : "No picture";
    copy.ariaLabel = link ? `Copy link: ${fileOf(source)}` : null;
    show(anchor, link ?? "");
    setOrRemove(anchor, "href", url?.href);
    this.#picture = url && thumbnailOf(url);
  }

  #showReason(error, colour) {
    const { reason, code } = this.#parts;
    reason.hidden = code.hidden = !error || ["cancelled", "deleted"].includes(colour);
    show(code, error?.code ?? "");
    show(reason, error?.message ?? "");
    setOrRemove(reason, "title", error?.message);
  }

  #showRetry(record, colour) {
    const { retry } = this.#parts;
    retry.hidden = record?.state !== "failed" || record.error.code === "invalid_url"; // that it stays
    show(retry, colour === "bad" ? "Retry" : "Upload");
    retry.ariaLabel = retry.hidden ? null : `${retry.textContent}: ${fileOf(record.url)}`;
  }
}

/** `text` as a URL where it is one of the web, else null: the only way to an href or src. */
export function webURL(text) {
  const url = URL.canParse(text) ? new URL(text) : null;
  return url && ["http:", "https:"].includes(url.protocol) ? url : null;
}

// https://i.imgur.com/abc1234.png: its thumbnail is abc1234b.jpg, whatever the image is.
function thumbnailOf(url) {
  const id = url.pathname.match(/^\/([A-Za-z0-9]+)\.[A-Za-z0-9]+$/)?.[1];
  return id ? `${url.origin}/${id}${THUMBNAIL}.jpg` : null;
}

function factsOf({ type, width, height, bytes, reused, maybe_duplicate: maybeTwice }) {
  const words = [];
  if (type) words.push(type.replace("image/", "").toUpperCase());
  if (width && height) words.push(`${width}\u00a0×\u00a0${height}`);
  if (bytes >= 1e6) words.push(`${(bytes / 1e6).toFixed(1)}\u00a0MB`);
  else if (bytes) words.push(`${Math.ceil(bytes / 1e3)}\u00a0kB`);
  if (reused) words.push("was here before");
  if (maybeTwice) words.push(`may be twice on ${TARGET}`);
  return words.join(" · ");
}
