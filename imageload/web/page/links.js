// The links of a job as text to paste somewhere, in input order. As `imageload --format` writes them.

const BREAKS_MARKDOWN = /[\\[\]<>`]/g;
const BREAKS_A_LINK = /[ ()<>[\]"']/g;
const BREAKS_HTML = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;" };

const LINES = {
  text: ({ link }) => link,
  markdown: (record) =>
    `![${nameOf(record).replace(BREAKS_MARKDOWN, "\\$&")}](${safe(record.link)})`,
  bbcode: ({ link }) => `[img]${safe(link)}[/img]`,
  html: (record) => `<img src="${escaped(record.link)}" alt="${escaped(nameOf(record))}">`,
  csv: ({ url, link }) => [url, link].map(field).join(","),
};

/** The links among `records`, a line each; `format` is text, markdown, bbcode, html or csv. */
export function linksAs(format, records) {
  const lines = records.filter(({ link }) => link).map(LINES[format]);
  return (format === "csv" ? ["url,link", ...lines] : lines).join("\n") + "\n";
}

// What stands for the image where it cannot be seen: its title, or its file's name.
function nameOf({ title, url }) {
  const path = URL.canParse(url) ? new URL(url).pathname : "";
  const name = title || decoded(path.slice(path.lastIndexOf("/") + 1));
  return name.split(/\s+/).filter(Boolean).join(" ") || "image";
}

function decoded(text) {
  return text.replace(/(?:%[0-9a-f]{2})+/gi, (run) => {
    const bytes = run.slice(1).split("%").map((code) => parseInt(code, 16));
    return new TextDecoder().decode(Uint8Array.from(bytes)); // what is no UTF-8 becomes U+FFFD
  });
}

function safe(link) {
  const code = (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`;
  return link.replace(BREAKS_A_LINK, code);
}

function escaped(text) {
  return text.replace(/[&<>"']/g, (character) => BREAKS_HTML[character]);
}

function field(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
