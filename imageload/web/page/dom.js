// Elements out of the document's templates, changed in place: what is the same is not touched, so
// that a reader's place, a selection and a screen reader's attention stay where they are.

/** A copy of the one element in the template `id`. */
export function clone(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** `selectors`, an object of selectors, with the element below `element` in the place of each. */
export function partsOf(element, selectors) {
  const found = ([name, selector]) => [name, element.querySelector(selector)];
  return Object.fromEntries(Object.entries(selectors).map(found));
}

/** Have `element` say `text`, and nothing else. */
export function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute, or remove it where `value` is empty; whether that changed anything. */
export function setOrRemove(element, name, value) {
  if (element.getAttribute(name) === (value || null)) return false;
  if (value) element.setAttribute(name, value);
  else element.removeAttribute(name);
  return true;
}

/**
 * Do `change`, and scroll by as much as it moves the element under the pointer: a click that has
 * begun on a button would end beside it, and be lost.
 */
export function keepUnderPointer(change) {
  const held = [...document.querySelectorAll(":hover")].at(-1);
  const before = held?.getBoundingClientRect().top;
  change();
  if (!held?.getClientRects().length) return;
  const moved = held.getBoundingClientRect().top - before;
  if (moved) window.scrollBy({ top: moved, behavior: "instant" });
}

/** A paragraph that says `text`. */
export function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}

/** `count` as people read it. */
export function number(count) {
  return count.toLocaleString("en");
}

/** "1 image", "2,000 images". */
export function many(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}
