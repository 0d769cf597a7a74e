"use strict";
// The page's side of the worker: one question at a time, the newest wins.

class Walker {
  constructor(facts, onProgress, onFailure) {
    const text = ["chain-js", "worker-js"]
      .map((id) => document.getElementById(id).textContent).join("\n");
    const source = new Blob([text, "\nstartWorker();"], { type: "text/javascript" });
    this.worker = new Worker(URL.createObjectURL(source));
    this.last = 0;
    this.waiting = new Map();
    this.worker.onmessage = ({ data }) => {
      if (data.kind === "progress") {
        if (this.waiting.size > 0) onProgress(data);
        return;
      }
      const resolve = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.id !== this.last) return;
      if (data.kind === "failure") onFailure(data.text);
      else resolve?.(data);
    };
    this.worker.onerror = (event) => onFailure(event.message || "the worker stopped");
    const elements = [...document.querySelectorAll("script.layer")];
    const layers = elements.map((element) => element.textContent);
    for (const element of elements) element.remove();
    const { heads, width, rows, columns, causal } = facts;
    this.worker.postMessage(
      { kind: "setup", layers, heads, width, columns, causal, states: rows * columns },
    );
  }

  /** Drops the question that is still open. */
  forget() {
    this.last += 1;
    this.waiting.clear();
  }

  /** Asks a question; `then` is called with the answer unless a newer one came. */
  ask(question, then) {
    this.forget();
    this.waiting.set(this.last, then);
    this.worker.postMessage({ ...question, id: this.last });
  }
}
