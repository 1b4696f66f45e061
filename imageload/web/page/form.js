// The form: a text that is pasted, and files, are documents. What is found in them is shown while
// somebody types; then each becomes a job. A pasted list of URLs is posted as a plain list.

import { many, paragraph, partsOf, show } from "./dom.js";
import { Preview } from "./preview.js";
import { Problem, preview, upload, uploadDocuments } from "./service.js";

const TYPING_MS = 300;
const PASTED = "pasted";
const KINDS = {
  markdown: ["Markdown", "md"], html: ["HTML", "html"], bbcode: ["BBCode", "bbcode"],
  csv: ["table", "csv"], json: ["JSON", "json"], org: ["Org text", "org"],
  asciidoc: ["AsciiDoc", "adoc"], wiki: ["wiki text", "wiki"], list: ["list", "txt"],
  text: ["text", "txt"],
};
const ON_THIS_DEVICE = "is an image on this device, and this page takes addresses. Put it on the web, "
  + "for example on imgur.com, and paste its address. Or drop a text that contains the addresses.";

export class UploadForm {
  #form;
  #parts;
  #preview;
  #act;
  #files = [];
  #found = null; // the documents of the last preview; null: they have changed since
  #timer = 0;
  #request = new AbortController();

  /**
   * `act` has what the form calls: `accepted` with the new jobs' ids, `refuse` with elements that
   * say why not, `problem` with a Problem, and `clear` before a new try.
   */
  constructor(form, act) {
    this.#form = form;
    this.#act = act;
    this.#parts = partsOf(form, {
      box: "#urls", send: "#send", found: "#found", file: "#file", files: "#files", base: "[name=base]",
    });
    this.#preview = new Preview(form.querySelector("#preview"));
    this.#listen();
  }

  /** Put the cursor into the box. */
  focus() {
    this.#parts.box.focus();
  }

  /** Put `text` into the box. */
  fill(text) {
    this.#parts.box.value = text;
    this.#changed();
    this.focus();
  }

  /** Look for images once more: what hindered it may be gone. */
  again() {
    if (!this.#found) this.#look();
  }

  #listen() {
    const { box, file, base } = this.#parts;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#post();
    });
    this.#form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    for (const input of [box, base]) input.addEventListener("input", () => this.#changed());
    box.addEventListener("paste", (event) => this.#paste(event));
    file.addEventListener("change", () => {
      this.#take([...file.files]);
      file.value = "";
    });
    // All of the page takes files: a browser leaves it for a file that is dropped beside the form.
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return; // text the box takes by itself
      event.preventDefault();
      this.#form.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) this.#form.classList.remove("over");
    });
    document.addEventListener("drop", (event) => this.#drop(event));
  }

  #paste(event) {
    const { clipboardData: data } = event;
    if (/https?:\/\//i.test(data.getData("text/plain"))) return; // the box takes it
    if (!data.getData("text/html") && !data.files.length) return;
    if (data.getData("text/plain") && !/<img\b/i.test(data.getData("text/html"))) return;
    event.preventDefault();
    this.#takePictures(data);
  }

  #drop(event) {
    this.#form.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    this.#takePictures(event.dataTransfer);
  }

  // Pictures that were copied or dragged out of a page come as markup, or as an image file with its
  // address, and as text that has neither.
  async #takePictures(data) {
    const [html, list, files] = [data.getData("text/html"), data.getData("text/uri-list"), [...data.files]];
    const urls = html ? await this.#urlsIn(html) : [];
    const listed = list.split(/\r?\n/).filter((line) => /^https?:\/\//i.test(line));
    const pictures = urls.length ? urls : listed;
    if (!pictures.length) {
      this.#take(files);
      return;
    }
    const { box } = this.#parts;
    this.fill([box.value.trimEnd(), ...pictures].filter(Boolean).join("\n"));
  }

  async #urlsIn(html) {
    try {
      const [{ images }] = await preview([new File([html], "pasted.html", { type: "text/html" })]);
      return [...new Set(images.map(({ url }) => url))];
    } catch (problem) {
      this.#act.problem(problem);
      return [];
    }
  }

  #take(files) {
    this.#act.clear();
    for (const each of files) {
      if (each.type.startsWith("image/")) this.#act.refuse(paragraph(`${each.name} ${ON_THIS_DEVICE}`));
      else this.#files.push(each);
    }
    this.#showFiles();
    this.#changed();
  }

  #showFiles() {
    const chips = this.#files.map((each) => {
      const [line, name, remove] = ["li", "bdi", "button"].map((tag) => document.createElement(tag));
      name.textContent = each.name;
      remove.type = "button";
      remove.className = "quiet";
      remove.ariaLabel = `Remove ${each.name}`;
      remove.textContent = "×";
      remove.addEventListener("click", () => {
        this.#files = this.#files.filter((other) => other !== each);
        this.#showFiles();
        this.#changed();
        this.#parts.file.focus();
      });
      line.append(name, remove);
      return line;
    });
    this.#parts.files.replaceChildren(...chips);
  }

  #changed() {
    this.#found = null;
    this.#request.abort();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), TYPING_MS);
  }

  // Find the images of all documents, and show them. Resolves to whether it came to an end: a newer
  // one overtakes it, and so does a change of the documents.
  async #look() {
    clearTimeout(this.#timer);
    this.#request.abort();
    const request = (this.#request = new AbortController());
    const { box, base } = this.#parts;
    const pasted = box.value.trim() ? [new File([box.value], PASTED)] : [];
    const sources = [...pasted, ...this.#files];
    try {
      const documents = sources.length ? await preview(sources, base.value.trim(), request.signal) : [];
      if (request.signal.aborted) return false;
      this.#found = documents.map((each, index) => ({ ...each, file: sources[index] }));
    } catch (problem) {
      if (request.signal.aborted) return false;
      if (!(problem instanceof Problem)) throw problem;
      show(this.#parts.found, `${problem.title}: ${problem.message}`);
      this.#preview.update([], []);
      if (problem.wantsToken) this.#act.problem(problem);
      return true;
    }
    this.#showFound();
    return true;
  }

  #showFound() {
    const found = this.#found;
    const place = ({ file }, line) => (found.length > 1 ? `${file.name}, line ${line}` : `line ${line}`);
    const images = new Map();
    const ignored = [];
    for (const each of found) {
      for (const { url, line } of each.images) {
        const known = images.get(url);
        if (known) known.places += 1;
        else images.set(url, { url, where: place(each, line), places: 1 });
      }
      ignored.push(...each.ignored.map(({ text, line, why }) => ({ text, where: place(each, line), why })));
    }
    const rows = [...images.values()].map(({ url, where, places }) => (
      { url, where: places > 1 ? `${where}, and ${many(places - 1, "more place")}` : where }
    ));
    this.#preview.update(rows, ignored);
    show(this.#parts.found, found.length ? this.#words(rows.length) : "");
  }

  #words(count) {
    const [first, ...others] = this.#found;
    const where = others.length ? many(others.length + 1, "document") : `this ${KINDS[first.kind][0]}`;
    const empty = others.length ? this.#found.filter(({ images }) => !images.length) : [];
    const none = empty.map(({ file }) => ` None in ${file.name}.`).join("");
    const lost = this.#found.filter(isPlainList).flatMap(noURLs).length;
    const odd = lost ? ` ${lost === 1 ? "1 entry is" : `${lost} entries are`} no URL, and will fail.` : "";
    return count ? `${many(count, "image")} in ${where}.${none}${odd}` : `There is no image URL in ${where}.`;
  }

  async #post() {
    const { box, send } = this.#parts;
    if (box.readOnly) return;
    this.#act.clear();
    box.readOnly = true;
    send.textContent = "Sending…";
    try {
      let isOver = Boolean(this.#found);
      while (!isOver) isOver = await this.#look();
      if (this.#found) await this.#postFound();
      else this.#act.refuse(paragraph(this.#parts.found.textContent));
    } catch (problem) {
      this.#act.problem(problem);
      this.#act.refuse(paragraph("Nothing is lost: it is still in the form."));
    } finally {
      box.readOnly = false;
      send.textContent = "Upload";
      // Whoever was among the ticks, which are gone, would find themselves at the top of the page.
      if (document.activeElement === document.body) send.focus({ preventScroll: true });
    }
  }

  async #postFound() {
    const isTicked = ({ url }) => this.#preview.isTicked(url);
    const found = this.#found;
    const wanted = found.filter(({ images }) => images.some(isTicked));
    if (!wanted.length) {
      const isEmpty = !found.some(({ images }) => images.length);
      const words = isEmpty ? "There is no image URL in the form." : "No image is ticked.";
      this.#act.refuse(paragraph(words));
      this.focus();
      return;
    }
    const [list] = wanted.filter(isPlainList);
    if (list) {
      const jobIds = await upload({ urls: entriesOf(list, isTicked), ...this.#texts() });
      this.#parts.box.value = "";
      this.#found = null;
      this.#act.accepted(jobIds);
    }
    const documents = wanted.filter((each) => each !== list);
    if (documents.length) {
      const skip = documents.flatMap(({ images }) => images).filter((each) => !isTicked(each));
      const options = { ...this.#texts(), base: this.#parts.base.value.trim() };
      this.#act.accepted(await uploadDocuments(documents.map(named), options, skip.map(({ url }) => url)));
    }
    this.#form.reset();
    // A file that was dropped in the meantime is for the next upload.
    this.#files = this.#files.filter((each) => !found.some(({ file }) => file === each));
    this.#showFiles();
    await this.#look();
  }

  #texts() {
    const { elements } = this.#form;
    const texts = ["album", "title", "description"].map((name) => [name, elements[name].value.trim()]);
    return Object.fromEntries(texts.filter(([, text]) => text));
  }
}

function isPlainList({ kind, file }) {
  return kind === "list" && file.name === PASTED;
}

// What is no URL belongs to the job too, and ends there with its reason.
function noURLs({ ignored }) {
  return ignored.filter(({ text }) => !/^https?:/i.test(text));
}

function entriesOf(list, isTicked) {
  const urls = list.images.filter(isTicked).map(({ url, line }) => ({ url, line }));
  const others = noURLs(list).map(({ text, line }) => ({ url: text, line }));
  return [...urls, ...others].sort((one, other) => one.line - other.line).map(({ url }) => url);
}

// A pasted document gets a name, for its job and for the file that it is saved as.
function named({ file, kind }) {
  return file.name === PASTED ? new File([file], `${PASTED}.${KINDS[kind][1]}`) : file;
}
