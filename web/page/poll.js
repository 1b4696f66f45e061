// One timer that asks again while something is unfinished, and never while an answer is awaited.
//
//   unfinished             every second; every 15 s while nobody sees the tab
//   nothing unfinished     not at all, until `now` is called
//   no answer              after 2 s, 4 s, 8 s, ... at most 30 s
//   no answer to us        not at all: asking again would not help

import { Problem } from "./service.js";

const BUSY_MS = 1_000;
const HIDDEN_MS = 15_000;
const LONGEST_MS = 30_000;

export class Poll {
  #work;
  #tell;
  #timer;
  #running = false;
  #again = false;
  #failures = 0;

  /**
   * `work` is an async function: how many jobs are unfinished, or a Problem. After each round,
   * `tell` is called with that number, or with the Problem and the milliseconds to the next try,
   * if there is to be one.
   */
  constructor(work, tell) {
    this.#work = work;
    this.#tell = tell;
  }

  /** Ask at once; where an answer is being awaited, once more right after it. */
  async now() {
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = true;
    clearTimeout(this.#timer);
    try {
      do {
        this.#again = false;
        await this.#round();
      } while (this.#again);
    } finally {
      this.#running = false;
    }
  }

  async #round() {
    clearTimeout(this.#timer);
    try {
      const unfinished = await this.#work();
      this.#failures = 0;
      this.#tell({ unfinished });
      if (unfinished) this.#later(document.hidden ? HIDDEN_MS : BUSY_MS);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.wantsToken) {
        this.#tell({ problem });
        return;
      }
      this.#failures += 1;
      const milliseconds = Math.min(LONGEST_MS, BUSY_MS * 2 ** this.#failures);
      this.#tell({ problem, milliseconds });
      this.#later(milliseconds);
    }
  }

  #later(milliseconds) {
    this.#timer = setTimeout(() => this.now(), milliseconds);
  }
}
