"use strict";
// State, controls, and what happens when one changes.

const BOUNCES = 20;
const FRAME_MS = 380;
const id = (name) => document.getElementById(name);

class Page {
  constructor(facts, picture) {
    this.facts = facts;
    this.n = facts.rows * facts.columns;
    this.table = colourTable(facts.colours);
    this.state = this.initial();
    this.frames = null; // bounces 0..20, one after the other
    this.rank = null; // {values, change, bound, bounces}
    this.scale = null;
    this.stripOf = {}; // what the strip shows
    this.timer = null; // of the bounces being played
    this.playWhenReady = false;
    this.sayWhenReady = false;
    this.stage = new Stage(id("canvas"), picture, facts);
    this.mixtureSets = facts.sets.map(unpackSets);
    this.headSets = facts.headSets.map((row) => row.map((sets) => (sets ? [unpackSets(sets)] : [])));
    this.walker = new Walker(facts, (p) => this.showProgress(p), sayFailure);
    this.heads = new HeadTable(id("heat"), facts, this.table, (l, h) => this.choose(l, h));
    this.prepare();
    connect(this);
    this.recompute();
  }

  initial() {
    const { rows, columns, mixedLayers, heads, sets, proposedSets } = this.facts;
    return {
      view: "bounces", chain: "mixture", weights: "lambda2", chosen: this.wholeLayers(mixedLayers),
      layer: mixedLayers.at(-1), head: 0, bounce: 3, target: 3, damping: 0.99, direction: "incoming",
      start: Math.floor(rows / 2) * columns + Math.floor(columns / 2),
      strength: 0.7, scaleKind: "linear",
      sets: Math.max(0, sets.findIndex(({ prevalence }) => prevalence.length === proposedSets)),
    };
  }

  wholeLayers(layers) {
    const all = layers.flatMap((layer) =>
      Array.from({ length: this.facts.heads }, (_, head) => `${layer},${head}`));
    return new Set(all);
  }

  /** Texts and ranges that depend on the model and picture. */
  prepare() {
    const { rows, columns, removed, heads, lambda2, largestError } = this.facts;
    id("size").textContent = `· ${this.n.toLocaleString("en")} patches (${rows} × ${columns}), ` +
      `${lambda2.length} layers × ${heads} heads`;
    const gone = removed === 0 ? "The model has no special tokens." :
      `${removed === 1 ? "The special token (class)" : `The ${removed} special tokens ` +
      "(class, registers)"} of the model ${removed === 1 ? "is" : "are"} removed from every ` +
      "chain: each row is the softmax over the patches alone.";
    id("about").append(element("strong", {}, "Numbers."), ` ${gone} Chains are stored as ` +
      `rounded queries and keys: where a walker is after one bounce differs from the model's ` +
      `attention by at most ${scientific(largestError)}, summed over all patches. |λ₂| and the ` +
      "metastable sets were computed in Python.");
    paintScale(id("scale"), this.table);
    paintScale(id("heat-scale"), this.table);
    id("layer").max = lambda2.length - 1;
    id("head").max = heads - 1;
  }

  /** [layer, head, weight] of every head in use; weights sum to one. */
  chain() {
    const { chain, layer, head, chosen, weights } = this.state;
    if (chain === "head") return [[layer, head, 1]];
    const pairs = [...chosen].map((key) => key.split(",").map(Number))
      .sort(([a, b], [c, d]) => a - c || b - d);
    const raw = pairs.map(([l, h]) => (weights === "uniform" ? 1 : this.facts.lambda2[l][h]));
    const total = sum(raw);
    return pairs.map(([l, h], i) => [l, h, total > 0 ? raw[i] / total : 1 / raw.length]);
  }

  /** The metastable sets of the chain in use, one entry for each number of sets. */
  setChoices() {
    const { chain, layer, head, chosen, weights } = this.state;
    if (chain === "head") return this.headSets[layer][head];
    const usual = this.initial();
    const isUsual = weights === usual.weights && chosen.size === usual.chosen.size &&
      [...chosen].every((key) => usual.chosen.has(key));
    return isUsual ? this.mixtureSets : [];
  }

  /** The sets on view; undefined where the chain in use has none. */
  sets() {
    const choices = this.setChoices();
    return choices[Math.min(this.state.sets, choices.length - 1)];
  }

  set(changes) {
    Object.assign(this.state, changes);
    const needsWorker = ["chain", "weights", "chosen", "layer", "head", "damping",
      "direction", "start", "view"].some((key) => key in changes);
    if (needsWorker) this.recompute();
    else this.show();
  }

  /** A click in the table of heads: one head, or (head null) a whole layer. */
  choose(layer, head) {
    if (this.state.chain === "head") {
      this.set({ layer, head: head ?? this.state.head });
      return;
    }
    const chosen = new Set(this.state.chosen);
    const keys = head === null ? [...this.wholeLayers([layer])] : [`${layer},${head}`];
    const remove = keys.every((key) => chosen.has(key));
    for (const key of keys) chosen[remove ? "delete" : "add"](key);
    if (chosen.size > 0) this.set({ chosen });
  }

  recompute() {
    const { view, start, damping, direction } = this.state;
    this.setBusy(view !== "sets");
    this.show();
    if (view === "sets") {
      this.walker.forget();
      this.settled();
      return;
    }
    const question = { chain: this.chain(), damping, direction, start, bounces: BOUNCES };
    if (view === "rank") {
      this.walker.ask({ ...question, ask: "rank" }, ({ frames, rank }) => {
        this.rank = { values: frames, ...rank };
        this.settled();
      });
    } else {
      this.walker.ask({ ...question, ask: "bounces" }, ({ frames }) => {
        this.frames = frames;
        this.settled();
      });
    }
  }

  settled() {
    this.setBusy(false);
    this.show();
    if (this.playWhenReady) this.play(this.state.target);
    if (this.sayWhenReady) this.say();
  }

  /** While an answer is awaited, the map is of the last one and no number is shown. */
  setBusy(busy) {
    this.busy = busy;
    id("view").ariaBusy = String(busy);
    id("save").disabled = busy;
    if (!busy) id("progress").hidden = true;
  }

  showProgress({ done, total, bounces, change }) {
    id("progress").hidden = false;
    const bar = id("progress").querySelector("progress");
    if (total) bar.value = done / total;
    else bar.removeAttribute("value");
    id("progress-text").textContent = total ? `Mixing head ${done + 1} of ${total}`
      : `TokenRank: ${bounces} bounces, last change ${scientific(change)}`;
  }

  /** The probabilities on view, or null while they are computed. */
  values() {
    const { view, bounce } = this.state;
    if (view === "rank") return this.rank?.values ?? null;
    return this.frames?.subarray(bounce * this.n, (bounce + 1) * this.n) ?? null;
  }

  show() {
    showPage(this);
  }

  /** Makes a patch the start; with `animate`, its bounces are then played. */
  startAt(start, { animate }) {
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.stop();
    this.playWhenReady = animate && !still;
    this.set({ start, bounce: this.playWhenReady ? 0 : this.state.target });
  }

  /** A key on the picture: moves the start, or in other views the patch read out. */
  moveBy(down, right) {
    const { view, start } = this.state;
    if (view === "bounces") {
      this.startAt(this.stage.neighbour(start, down, right), { animate: false });
    } else {
      this.stage.hovered = this.stage.neighbour(this.stage.hovered ?? start, down, right);
      this.show();
    }
    this.sayWhenReady = true;
    if (view !== "bounces") this.say();
  }

  /** Tells screen readers about the patch that a key moved to. */
  say() {
    this.sayWhenReady = false;
    const { view, start, bounce } = this.state;
    const values = view === "sets" ? null : this.values();
    const patch = view === "bounces" ? start : this.stage.hovered;
    const { place, value, detail } = describePatch(this, values, patch);
    const after = view === "bounces" ? ` after bounce ${bounce}` : "";
    id("said").textContent = `${place}: ${value}, ${detail}${after}`;
  }

  bounceBy(step) {
    this.stop();
    const bounce = Math.max(0, Math.min(BOUNCES, this.state.bounce + step));
    this.set({ bounce, target: bounce });
  }

  /** Plays the bounces from 0 to `last`. */
  play(last) {
    this.playWhenReady = false;
    this.stop();
    id("play").setAttribute("aria-pressed", "true");
    id("play").textContent = "Stop";
    this.set({ bounce: 0 });
    this.timer = setInterval(() => {
      if (this.state.bounce >= last) this.stop();
      else this.set({ bounce: this.state.bounce + 1 });
    }, FRAME_MS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    id("play").setAttribute("aria-pressed", "false");
    id("play").textContent = "Play";
  }
}

function sayFailure(text) {
  id("progress").hidden = false;
  id("progress-text").textContent = `This browser could not compute the chain: ${text}. ` +
    "It needs Web Workers and DecompressionStream (browsers since 2023).";
}

id("source").decode().then(() => {
  const facts = JSON.parse(id("facts").textContent);
  window.attnchain = new Page(facts, id("source"));
}).catch((error) => sayFailure(error.message));
