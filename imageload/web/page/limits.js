// Imgur's budgets as a picture: what is left of each, when it is full again, how many images it pays.

import { clone, many, number, partsOf, show } from "./dom.js";
import { untilOf } from "./words.js";

const NAMES = { user: "Hourly credits", client: "Daily credits", posts: "Uploads an hour" };
const COSTS = { user: 10, client: 10, posts: 1 }; // of an upload
const LITTLE = 0.1; // of a budget

/** Show the budgets of `quota`, a response of /v1/quota, in `list`; whether there are any. */
export function showLimits(list, { budgets }) {
  const known = budgets.filter(({ limit, remaining }) => limit && remaining !== null);
  while (list.children.length > known.length) list.lastElementChild.remove();
  const clients = new Set(known.map(({ client }) => client).filter(Boolean));
  known.forEach((budget, index) => {
    const element = list.children[index] ?? list.appendChild(clone("budget-template"));
    showBudget(partsOf(element, { name: ".name", meter: "meter", words: ".words" }), budget, clients.size > 1);
  });
  return known.length > 0;
}

function showBudget({ name, meter, words }, { client, budget, limit, remaining, resets_at: at }, isOneOfMany) {
  const left = Math.max(0, remaining);
  show(name, isOneOfMany && client ? `${NAMES[budget]}, client id ${client}` : NAMES[budget]);
  meter.max = limit;
  meter.low = limit * LITTLE;
  meter.optimum = limit;
  meter.value = left;
  const count = Math.floor(left / COSTS[budget]);
  const images = count ? many(count, "more image") : "no more images";
  const until = at && left < limit ? ` until ${untilOf(at)}, when it is full again` : "";
  show(words, `${number(left)} of ${number(limit)} left: ${images}${until}.`);
}
