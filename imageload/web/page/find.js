// The image URLs in whatever people paste: lines, commas, CSV, JSON, Markdown, BBCode, HTML.
//
// Nothing is left out unseen. A plain list is taken entry by entry, so that one that is no URL fails
// with its reason. In other text URLs are looked for: those that are marked as images or end like
// one are `images`; all others are `others`, which the user may take too. Pictures of a web page that
// are named without a host cannot be fetched, and are counted.
//
// The text is a stranger's: every pattern has a bound, and the time grows with the text's length.

const IMAGE_PATH = /\.(jpe?g|png|gif|webp|avif|heic|heif|bmp|tiff?|apng|svg|jfif)$/i;
const URL_IN_TEXT = /https?:\/\/[^\s"'<>`|\\^{}\u201c\u201d]+/gi;
const MARKED = [
  /!\[(?:[^\]\\]|\\.){0,500}\]\(\s{0,9}<?(https?:\/\/[^\s>]+)/gi, // Markdown: ![words](URL "title")
  /\[img[^\][]{0,99}\](https?:\/\/[^\s[]+)\[\/img\]/gi, // BBCode
];
// What stands between two URLs that no blank parts: Markdown, a tag of BBCode, a comma.
const BETWEEN = /\]\(|\)\[|\[\/?(?:img|url|b|i|u|center|quote|size|color|list)\b[^\][]{0,99}\]|[,;](?=https?:\/\/)/i;
const MARKUP = /<(?:!doctype|html|head|body|div|p|ul|li|td|span|a|img|source|picture|figure|meta)\b/i;
const IN_STYLE = /url\(\s*["']?([^"')]+)/gi;
const LONGEST_URL = 8_000; // the service fetches no longer one
const AROUND = new Set(".,;:!?*_");
const BRACKETS = { ")": "(", "]": "[" };
const LAZY = ["data-src", "data-original", "data-lazy-src"];
// As the service reads plain text: a comma may be part of a URL.
const COMMA = /,(?=\s|,|$|https?:\/\/)/i;

/**
 * What was found in `text`: `images` and `others`, each a list of different strings in their order,
 * and `kind`, what the text was taken for: "list", "JSON", "HTML" or "text". HTML has `hostless` too,
 * the number of pictures of whose address only the path is there.
 */
export function findURLs(text) {
  const json = parsed(text);
  if (json !== undefined) return sorted("JSON", stringsIn(json), new Set());
  if (MARKUP.test(text)) return inHTML(text);
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  if (lines.every(isPlain)) return { kind: "list", images: unique(lines.flatMap(entriesIn)), others: [] };
  return inText(lines);
}

function entriesIn(line) {
  return line.split(COMMA).map((entry) => entry.trim()).filter(Boolean);
}

// Words without markup, and not a URL among other things: that would be a row of a table.
function isPlain(line) {
  const entries = entriesIn(line);
  const isWord = (entry) => !/[\s"<>]|[;|](?=https?:\/\/)/i.test(entry)
    && (isURL(entry) || !/[[\](){};]/.test(entry));
  return entries.every((entry) => isWord(entry) && trimmed(entry) === entry)
    && (entries.length < 2 || entries.every(isURL));
}

function isURL(entry) {
  return /^https?:\/\//i.test(entry);
}

function parsed(text) {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// Without recursion: lists may be nested more deeply than calls.
function stringsIn(json) {
  const found = [];
  const left = [json];
  while (left.length) {
    const value = left.pop();
    if (typeof value === "string") {
      const text = value.trim();
      if (isURL(text) && !/\s/.test(text)) found.push(text);
    } else if (value !== null && typeof value === "object") {
      const inner = Object.values(value);
      while (inner.length) left.push(inner.pop()); // the first one is next
    }
  }
  return found;
}

function inText(lines) {
  const isTable = lines.length > 1 && lines.every((line) => line.includes(";"));
  const text = (isTable ? lines.flatMap((line) => line.split(";")) : lines).join("\n");
  const marked = new Set();
  for (const pattern of MARKED) {
    for (const [, url] of text.matchAll(pattern)) marked.add(trimmed(url));
  }
  const found = [...text.matchAll(URL_IN_TEXT)].flatMap(([run]) => run.split(BETWEEN));
  return sorted("text", found.filter(isURL).map(trimmed), marked);
}

// Without what belongs to the sentence or the markup around it, and not to the URL.
function trimmed(run) {
  const counts = { "(": 0, ")": 0, "[": 0, "]": 0 };
  for (const character of run) if (character in counts) counts[character] += 1;
  let end = run.length;
  for (; end; end -= 1) {
    const last = run[end - 1];
    const open = BRACKETS[last];
    if (open && counts[last] > counts[open]) counts[last] -= 1;
    else if (!AROUND.has(last)) break;
  }
  return run.slice(0, end);
}

// The document is inert: nothing in it is run or loaded. This page's policy is held against it all
// the same, and what might break that is made harmless first.
function inHTML(text) {
  const harmless = text
    .replace(/<(\/?)(base|style|link|iframe|object|embed|script)\b/gi, "<$1x-$2")
    .replace(/\s(on\w+|style|http-equiv)(?=\s*=)/gi, " data-$1");
  const page = new DOMParser().parseFromString(harmless, "text/html");
  const base = page.querySelector("x-base[href]")?.getAttribute("href");
  const marked = new Set();
  const found = [];
  let hostless = 0;
  const add = (value, isMarked) => {
    const url = absolute(value, base);
    if (!url) {
      hostless += Number(isMarked && !/^\s*(?:$|[a-z]+:)/i.test(value ?? ""));
      return;
    }
    found.push(url);
    if (isMarked) marked.add(url);
  };
  for (const element of page.querySelectorAll("img, source, a[href], meta[content], [data-style]")) {
    for (const [, url] of (element.dataset.style ?? "").matchAll(IN_STYLE)) add(url, true);
    if (element.matches("img")) {
      const lazy = LAZY.map((name) => element.getAttribute(name)).find(Boolean);
      add(lazy ?? element.getAttribute("src") ?? largest(element.getAttribute("srcset")), true);
    } else if (element.matches("picture > source")) {
      if (!element.parentElement.querySelector("img[src]")) add(largest(element.getAttribute("srcset")), true);
    } else if (element.matches("a")) {
      add(element.getAttribute("href"), false);
    } else if (/^(og|twitter):image/.test(element.getAttribute("property") ?? element.name ?? "")) {
      add(element.getAttribute("content"), true);
    }
  }
  page.querySelectorAll("x-script, x-style").forEach((element) => element.remove());
  const bare = [...page.body.textContent.matchAll(URL_IN_TEXT)].map(([run]) => trimmed(run));
  return { ...sorted("HTML", [...found, ...bare], marked), hostless };
}

function absolute(value, base) {
  const text = value?.trim();
  if (!text) return null;
  if (/^https?:\/\//i.test(text)) return text;
  if (text.startsWith("//")) return `https:${text}`;
  if (!base || !URL.canParse(text, base)) return null;
  const url = new URL(text, base);
  return /^https?:$/.test(url.protocol) ? url.href : null;
}

// Of "a.jpg 1x, b.jpg 2x" or "a.jpg 300w, b.jpg 900w" the last of the largest.
function largest(srcset) {
  const sizes = (srcset ?? "").split(/,\s+/).map((each) => each.trim().split(/\s+/));
  const sized = sizes.filter(([url]) => url).map(([url, size]) => [url, parseFloat(size) || 1]);
  return sized.reduce((best, each) => (each[1] >= (best?.[1] ?? 0) ? each : best), null)?.[0];
}

function sorted(kind, urls, marked) {
  const all = unique(urls);
  const images = all.filter((url) => marked.has(url) || looksLikeImage(url));
  if (!images.length) return { kind, images: all, others: [] };
  const taken = new Set(images);
  return { kind, images, others: all.filter((url) => !taken.has(url)) };
}

function looksLikeImage(url) {
  return url.length <= LONGEST_URL && URL.canParse(url) && IMAGE_PATH.test(new URL(url).pathname);
}

function unique(values) {
  return [...new Set(values)];
}
