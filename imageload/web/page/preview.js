// What the service found in the documents: a row with a tick for each image, and what it ignored.

import { clone, many, number, partsOf, setOrRemove, show } from "./dom.js";
import { WindowedList } from "./window.js";
import { fileOf } from "./words.js";

const MOST_IGNORED = 100; // are shown; all are counted

/** The images of documents, to choose from. `element` is the part of the page that shows them. */
export class Preview {
  #element;
  #parts;
  #list;
  #images = [];
  #skipped = new Set();

  constructor(element) {
    this.#element = element;
    this.#parts = partsOf(element, {
      all: "input", words: "label span", scroller: ".window", images: "ol", ignored: "details",
      summary: "summary", reasons: "ul",
    });
    this.#list = new WindowedList(this.#parts.scroller, this.#parts.images, {
      makeRow: () => new FoundRow((url, isTicked) => this.#tick([url], isTicked)),
      recordOf: (index) => {
        const image = this.#images[index];
        return image && { ...image, isTicked: !this.#skipped.has(image.url) };
      },
    });
    const { all } = this.#parts;
    all.addEventListener("change", () => this.#tick(this.#images.map(({ url }) => url), all.checked));
  }

  /** Show `images`, each `{ url, where }`, and `ignored`, each `{ text, where, why }`. */
  update(images, ignored) {
    const urls = new Set(images.map(({ url }) => url));
    this.#skipped = new Set([...this.#skipped].filter((url) => urls.has(url)));
    this.#images = images;
    this.#element.hidden = !images.length && !ignored.length;
    this.#parts.scroller.hidden = this.#parts.all.parentElement.hidden = !images.length;
    this.#list.resize(images.length);
    this.#list.draw();
    this.#showIgnored(ignored);
    this.#count();
  }

  /** Whether the image of this URL is to be uploaded. */
  isTicked(url) {
    return !this.#skipped.has(url);
  }

  #tick(urls, isTicked) {
    for (const url of urls) this.#skipped[isTicked ? "delete" : "add"](url);
    this.#list.draw();
    this.#count();
  }

  #count() {
    const { all, words } = this.#parts;
    const [total, skipped] = [this.#images.length, this.#skipped.size];
    all.checked = !skipped;
    all.indeterminate = skipped > 0 && skipped < total;
    show(words, skipped ? `${number(total - skipped)} of ${many(total, "image")}` : `All ${many(total, "image")}`);
  }

  #showIgnored(ignored) {
    const { ignored: details, summary, reasons } = this.#parts;
    details.hidden = !ignored.length;
    show(summary, `${number(ignored.length)} left out`);
    const lines = ignored.slice(0, MOST_IGNORED).map(({ text, where, why }) => {
      const line = document.createElement("li");
      const written = document.createElement("bdi");
      written.textContent = text;
      line.append(written, ` (${where}): ${why}`);
      return line;
    });
    reasons.replaceChildren(...lines);
    if (ignored.length > MOST_IGNORED) {
      const rest = document.createElement("li");
      rest.textContent = `And ${number(ignored.length - MOST_IGNORED)} more.`;
      reasons.append(rest);
    }
  }
}

class FoundRow {
  #parts;
  #url = "";

  constructor(onTick) {
    this.element = clone("found-template");
    const parts = (this.#parts = partsOf(this.element, { tick: "input", name: ".name", where: ".where" }));
    parts.tick.addEventListener("change", () => onTick(this.#url, parts.tick.checked));
  }

  update({ url, where, isTicked } = { url: "", where: "", isTicked: true }) {
    const { tick, name, where: place } = this.#parts;
    this.#url = url;
    tick.checked = isTicked;
    show(name, fileOf(url));
    show(place, [hostOf(url), where].filter(Boolean).join(" · "));
    setOrRemove(this.element, "title", url);
  }
}

function hostOf(url) {
  return URL.canParse(url) ? new URL(url).host : "";
}
