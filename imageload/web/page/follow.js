// Keeps the page true: the list once, then what the service tells of jobs as it happens.
//
//   open the stream ─► its first word ─► load the list ─► hear each event ─► ...
//        ▲                                                       │ it ends, or nothing comes
//        └── after 2 s, 4 s, 8 s, ... at most 30 s ◄─────────────┘ (no token: not before `now`)
//
// A tab that nobody sees has no stream: a browser opens six connections to a host, over all tabs.

import { Problem, events } from "./service.js";

const FIRST_MS = 2_000;
const LONGEST_MS = 30_000;

export class Follow {
  #load;
  #hear;
  #tell;
  #stream = new AbortController();
  #timer;
  #failures = 0;

  /**
   * `load`, an async function, is called whenever all may be new, `hear` with each job that
   * changed. `tell` is called with nothing where all is well, else with the Problem and the
   * milliseconds to the next try, if there is to be one.
   */
  constructor({ load, hear, tell }) {
    this.#load = load;
    this.#hear = hear;
    this.#tell = tell;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#end() : this.now()));
    window.addEventListener("online", () => {
      this.#failures = 0; // the way may be there a moment later than the word of it
      this.now();
    });
  }

  /** Begin, or begin anew, at once. */
  async now() {
    this.#end();
    const stream = (this.#stream = new AbortController());
    try {
      await this.#follow(stream.signal);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (stream.signal.aborted) return;
      await this.#later(problem, stream.signal);
    }
  }

  #end() {
    clearTimeout(this.#timer);
    this.#stream.abort();
  }

  async #follow(signal) {
    let isOpen = false;
    for await (const { name, data } of events(signal)) {
      if (!isOpen) {
        isOpen = true;
        await this.#load();
        if (signal.aborted) return;
        this.#failures = 0;
        this.#tell();
      } else if (name === "job") {
        this.#hear(JSON.parse(data));
      }
    }
    throw new Problem("The service has ended the connection", "Connecting again.");
  }

  async #later(problem, signal) {
    if (problem.status === 503) {
      // It may only have no stream left for us.
      problem = (await this.#loaded()) ?? new Problem("Too many listeners", problem.message);
    }
    if (signal.aborted) return;
    if (problem.wantsToken) {
      this.#tell({ problem });
      return;
    }
    const milliseconds = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.#failures);
    this.#failures += 1;
    this.#tell({ problem, milliseconds });
    this.#timer = setTimeout(() => this.now(), milliseconds);
  }

  async #loaded() {
    try {
      await this.#load();
      return null;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      return problem;
    }
  }
}
