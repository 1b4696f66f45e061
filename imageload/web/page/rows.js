// One image of a job as a row. What strangers wrote (a URL, a message, a link) becomes text, or an
// href after `webURL` has looked at it; nothing is read as markup.

import { clone, partsOf, setOrRemove, show } from "./dom.js";

const THUMBNAIL = "b"; // Imgur's square of 160 pixels

export class ImageRow {
  #parts;
  #shown = "";

  constructor() {
    this.element = clone("image-template");
    this.#parts = partsOf(this.element, {
      thumbnail: "img", state: ".state", code: ".code", size: ".size", source: "bdi", link: ".link",
      anchor: "a", reason: ".reason",
    });
    const { thumbnail } = this.#parts;
    thumbnail.addEventListener("error", () => (thumbnail.hidden = true));
  }

  /** Show `record`, one of a job's images; nothing where it has not come yet. */
  update(record) {
    const key = JSON.stringify(record ?? null);
    if (key === this.#shown) return;
    this.#shown = key;
    const { state, size, source } = this.#parts;
    this.element.dataset.state = state.dataset.state = record?.state ?? "";
    show(state, record?.state ?? "…");
    show(size, record ? factsOf(record) : "");
    show(source, record?.url ?? "");
    setOrRemove(source, "title", record?.url);
    this.#showLink(record?.link);
    this.#showReason(record?.error);
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
    const { reason, code } = this.#parts;
    reason.hidden = code.hidden = !error;
    show(code, error?.code ?? "");
    show(reason, error?.message ?? "");
    setOrRemove(reason, "title", error?.message);
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
  if (maybeTwice) words.push("may be on Imgur twice");
  return words.join(" · ");
}
