// How fast a job goes, and a small plot of it: from what this page has seen of the job.

import { many, number } from "./dom.js";
import { durationOf } from "./words.js";

const SEEN_MS = 30_000; // the rate is that of this time
const MOST_POINTS = 200;
const [WIDTH, HEIGHT] = [100, 24];

/** The counts of one job over time. */
export class Pace {
  #points = []; // [milliseconds, landed, ended]

  /** Note the counts of `job` as of now. */
  add({ counts: { completed, failed } }) {
    const ended = completed + failed;
    if (this.#points.at(-1)?.[2] > ended) this.#points = []; // a retry, or an undo
    this.#points.push([performance.now(), completed, ended]);
    if (this.#points.length > MOST_POINTS) this.#points = this.#points.filter((_, index) => index % 2 === 0);
  }

  /** "2.4 images a second, 3 minutes left"; nothing where too little was seen. */
  words({ counts: { pending } }) {
    const now = performance.now();
    const [from, , before] = this.#points.find(([moment]) => moment > now - SEEN_MS) ?? [now, 0, 0];
    const seconds = (now - from) / 1_000;
    const ended = (this.#points.at(-1)?.[2] ?? 0) - before;
    if (seconds < 1 || !ended) return "";
    const rate = ended / seconds;
    const aMinute = many(Math.max(1, Math.round(rate * 60)), "image");
    const pace = rate < 1 ? `${aMinute} a minute` : `${rate.toFixed(rate < 10 ? 1 : 0)} images a second`;
    return `${pace}, ${durationOf(pending / rate)} left`;
  }

  /** Draw the landed images into `svg`, an element that has a polyline. */
  draw(svg, { counts: { total } }) {
    const [first] = this.#points[0];
    const last = Math.max(this.#points.at(-1)[0], first + 1);
    const place = ([moment, landed]) => {
      const [x, y] = [(moment - first) / (last - first) * WIDTH, HEIGHT - landed / total * HEIGHT];
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    };
    svg.querySelector("polyline").setAttribute("points", this.#points.map(place).join(" "));
    svg.ariaLabel = `${number(this.#points.at(-1)[1])} of ${many(total, "image")} landed over time`;
  }
}
