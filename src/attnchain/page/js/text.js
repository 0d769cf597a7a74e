"use strict";
// A text with one box for each token: what is shown, chosen, and saved.

const id = (name) => document.getElementById(name);
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const AT_ONCE = 4e9; // products that a mixture of all heads may cost to begin with

class TextPage {
  constructor(facts) {
    this.facts = facts;
    this.n = facts.columns;
    this.table = colourTable(facts.colours);
    this.state = {
      shown: "goes", bounces: 1, start: 0, pinned: false, damping: facts.damping,
      chosen: this.firstChoice(),
    };
    this.values = null; // one number for each token
    this.boxes = this.write();
    this.walker = new Walker(facts, (p) => this.showProgress(p), (text) => this.say(text));
    this.heads = new HeadTable(id("heat"), facts, this.table, (l, h) => this.choose(l, h));
    this.prepare();
    this.connect();
    this.recompute();
  }

  /** All heads, or the slowest one where mixing all would take long. */
  firstChoice() {
    const { heads, lambda2, width } = this.facts;
    const all = lambda2.flatMap((row, l) => row.map((value, h) => [l, h, value]));
    if (this.n ** 2 * width * all.length <= AT_ONCE) return all.map(([l, h]) => [l, h]);
    const slow = all.filter(([, , value]) => value < 0.999).sort((a, b) => b[2] - a[2]);
    return [(slow[0] ?? all[0]).slice(0, 2)];
  }

  /** Writes the text; returns the boxes of the tokens that are states. */
  write() {
    const boxes = [];
    for (const [before, name, state] of this.facts.tokens) {
      id("text").append(before);
      const box = element("span", { className: state < 0 ? "out" : "token" }, name);
      if (state >= 0) {
        box.dataset.state = state;
        boxes.push(box);
      } else {
        box.title = "left out of the chains";
      }
      id("text").append(box);
    }
    return boxes;
  }

  prepare() {
    const { lambda2, heads, treatment, largestError, groups } = this.facts;
    id("size").textContent = `· ${this.n.toLocaleString("en")} tokens, ` +
      `${lambda2.length} layers × ${heads} heads`;
    id("damping").value = this.state.damping;
    id("shown").querySelector('[value="groups"]').disabled = groups === null;
    id("about").textContent = `${treatment}. Chains are stored as rounded queries and ` +
      `keys: where a walker is after one bounce differs from the model's attention by at ` +
      `most ${scientific(largestError)}, summed over all tokens. Groups are of the ` +
      `mixture of all heads, out and back.`;
  }

  connect() {
    const text = id("text");
    const stateOf = (event) => event.target.dataset?.state;
    text.addEventListener("pointerover", (event) => {
      const state = stateOf(event);
      if (state === undefined) return;
      if (this.state.pinned) this.sayToken(Number(state));
      else this.startAt(Number(state));
    });
    text.addEventListener("click", (event) => {
      const state = stateOf(event);
      this.state.pinned = state !== undefined;
      if (state !== undefined) this.startAt(Number(state));
    });
    text.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if (!step) return;
      event.preventDefault();
      this.state.pinned = true;
      this.startAt(Math.max(0, Math.min(this.n - 1, this.state.start + step[0] + step[1])));
    });
    id("shown").addEventListener("change", () => this.set("shown", id("shown").value));
    id("bounces").addEventListener("input", () => this.set("bounces", Number(id("bounces").value)));
    id("damping").addEventListener("input", () => this.set("damping", Number(id("damping").value)));
    id("all").addEventListener("click", () => this.choose(null, null));
    id("png").addEventListener("click", () => this.savePng());
    id("svg").addEventListener("click", () => this.saveSvg());
  }

  startAt(state) {
    if (state !== this.state.start || this.values === null) this.set("start", state);
  }

  set(name, value) {
    this.state[name] = value;
    this.recompute();
  }

  /** One head, a whole layer (no head), or all (no layer). */
  choose(layer, head) {
    const layers = layer === null ? [...this.facts.lambda2.keys()] : [layer];
    const of = head === null ? [...Array(this.facts.heads).keys()] : [head];
    this.set("chosen", layers.flatMap((l) => of.map((h) => [l, h])));
  }

  /** [layer, head, weight] of every head in use, weighted by |lambda_2|. */
  chain() {
    const { chosen } = this.state;
    const raw = chosen.map(([l, h]) => this.facts.lambda2[l][h]);
    const total = sum(raw);
    return chosen.map(([l, h], i) => [l, h, total > 0 ? raw[i] / total : 1 / raw.length]);
  }

  recompute() {
    const { shown, start, bounces, damping } = this.state;
    const walking = shown === "goes" || shown === "comes";
    id("player").hidden = !walking;
    id("bounces-text").textContent = bounces;
    id("damping-text").textContent = damping.toFixed(2);
    const used = new Set(this.state.chosen.map(String));
    this.heads.show((l, h) => used.has(`${l},${h}`));
    const chain = this.chain();
    id("chain-text").textContent = chain.length > 1 ?
      chainName(chain, { chain: "mixture", weights: "lambda2" }, this.facts) :
      chainName(chain, { chain: "head" }, this.facts);
    if (shown === "groups") {
      this.walker.forget();
      this.showGroups();
      return;
    }
    id("view").setAttribute("aria-busy", "true");
    const question = walking ?
      { ask: "bounces", start, bounces, damping: 1 } : { ask: "rank", damping };
    const direction = shown === "comes" || shown === "outgoing" ? "outgoing" : "incoming";
    this.walker.ask({ ...question, chain, direction }, ({ frames }) => {
      this.show(walking ? frames.subarray(bounces * this.n) : frames);
    });
  }

  show(values) {
    this.values = values;
    const scale = scaleFor(values, "linear");
    this.paint((state) => colourAt(this.table, scale.place(values[state])));
    const { shown, start, bounces } = this.state;
    const best = Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, 5)
      .map((state) => `${this.name(state)} ${probability(values[state])}`).join(", ");
    const what = { goes: "to", comes: "from" }[shown];
    this.say(what ? `${this.name(start)}, ${bounces} bounce(s), attention ${what}: ${best}` : best);
  }

  showGroups() {
    const { labels } = this.facts.groups;
    this.values = null;
    this.paint((state) => SET_COLOURS[labels[state] % SET_COLOURS.length]);
    this.say(`${Math.max(...labels) + 1} groups of tokens that look at the same tokens`);
  }

  paint(colourOf) {
    const started = ["goes", "comes"].includes(this.state.shown);
    this.boxes.forEach((box, state) => {
      const colour = colourOf(state);
      box.style.background = css(colour);
      box.style.color = inkOn(colour);
      box.classList.toggle("start", started && state === this.state.start);
    });
    id("progress").textContent = "";
    id("view").setAttribute("aria-busy", "false");
  }

  name(state) {
    return `“${this.boxes[state].textContent}”`;
  }

  sayToken(state) {
    if (this.values) this.say(`${this.name(state)}: ${probability(this.values[state])}`);
  }

  say(text) {
    id("said").textContent = text;
  }

  showProgress({ done, total }) {
    if (total > 1) id("progress").textContent = `mixing head ${done + 1} of ${total}`;
  }

  /** Every box as it lies on the page: {x, y, width, height, text, colour, ink}. */
  layout() {
    const frame = id("text").getBoundingClientRect();
    const boxes = [...id("text").querySelectorAll("span")].map((box) => {
      const place = box.getBoundingClientRect();
      return {
        x: place.x - frame.x, y: place.y - frame.y, width: place.width, height: place.height,
        text: box.textContent, colour: box.style.background || "#fff", ink: box.style.color || "#777",
      };
    });
    return { width: frame.width, height: frame.height, boxes };
  }

  svg() {
    const { width, height, boxes } = this.layout();
    const safe = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
    const drawn = boxes.map((b) =>
      `<rect x="${b.x}" y="${b.y}" width="${b.width}" height="${b.height}" fill="${b.colour}"/>` +
      `<text x="${b.x + b.width / 2}" y="${b.y + b.height / 2}" fill="${b.ink}">${safe(b.text)}</text>`);
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
      `font-family="system-ui, sans-serif" font-size="15" text-anchor="middle" ` +
      `dominant-baseline="central">${drawn.join("")}</svg>`;
  }

  saveSvg() {
    const blob = new Blob([this.svg()], { type: "image/svg+xml" });
    const link = element("a", { href: URL.createObjectURL(blob), download: "text.svg" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  savePng() {
    const { width, height, boxes } = this.layout();
    const canvas = document.createElement("canvas");
    canvas.width = 2 * width;
    canvas.height = 2 * height;
    const context = canvas.getContext("2d");
    context.scale(2, 2);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.font = "15px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const b of boxes) {
      context.fillStyle = b.colour;
      context.fillRect(b.x, b.y, b.width, b.height);
      context.fillStyle = b.ink;
      context.fillText(b.text, b.x + b.width / 2, b.y + b.height / 2);
    }
    download(canvas, "text.png");
  }
}

window.attnchain = new TextPage(JSON.parse(id("facts").textContent));
