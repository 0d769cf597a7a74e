"use strict";
// A picture divided among words: which map is shown, after how many bounces, at which level.

const id = (name) => document.getElementById(name);

class WordsPage {
  constructor(facts, picture) {
    this.facts = facts;
    this.n = facts.rows * facts.columns;
    this.codes = new Uint16Array(bytesOf(id("maps").textContent).slice().buffer);
    this.table = colourTable(facts.colours);
    this.stage = new Stage(id("canvas"), picture, facts);
    this.state = {
      word: null, kept: null, level: 0, strength: 0.65,
      bounces: facts.bounces, direction: facts.direction,
    };
    this.buttons = this.makeButtons();
    this.prepare();
    this.connect();
    this.show();
  }

  /** One button for each word that walkers start from. */
  makeButtons() {
    return this.facts.words.map((name, word) => {
      const chip = element("span", { className: "chip" }, String(word + 1));
      const colour = this.facts.legend[word].colour;
      chip.style.background = css(colour);
      chip.style.color = inkOn(colour);
      const button = element("button", { type: "button" }, chip, ` ${name}`);
      button.setAttribute("aria-pressed", "false");
      id("words").append(button);
      return button;
    });
  }

  prepare() {
    const { rows, columns, levels, mostBounces, words, damping, error } = this.facts;
    id("size").textContent = `· ${rows} × ${columns} patches`;
    id("bounces").max = mostBounces;
    id("bounces").value = this.state.bounces;
    id("level").max = levels.length - 1;
    id("level").value = 0;
    id("level-player").hidden = levels.length === 1;
    id("direction").value = this.state.direction;
    id("rule").textContent = words.length === 1 ?
      "A word alone has the patches above the mean of its map." :
      "Every word sends as many walkers; a patch is its whose walkers are the most there.";
    id("about").textContent = `Walks follow attention with probability ${damping} and else ` +
      `jump to any token. Maps are scaled to sum one and stored within ` +
      `${scientific(error)} of each map's peak.`;
    paintScale(id("scale"), this.table);
  }

  connect() {
    this.buttons.forEach((button, word) => {
      const look = () => this.set("word", word);
      const leave = () => this.set("word", this.state.kept);
      button.addEventListener("pointerenter", look);
      button.addEventListener("pointerleave", leave);
      button.addEventListener("focus", look);
      button.addEventListener("blur", leave);
      button.addEventListener("click", () => {
        this.state.kept = this.state.kept === word ? null : word;
        this.set("word", this.state.kept);
      });
    });
    for (const name of ["bounces", "level", "strength"]) {
      id(name).addEventListener("input", () => this.set(name, Number(id(name).value)));
    }
    id("direction").addEventListener("change", () => this.set("direction", id("direction").value));
    id("canvas").addEventListener("pointermove", (event) => {
      this.stage.hovered = this.stage.patchAt(event);
      this.stage.paint();
      this.say();
    });
    id("canvas").addEventListener("pointerleave", () => {
      this.stage.hovered = null;
      this.stage.paint();
      this.say();
    });
    id("save").addEventListener("click", () => this.save());
  }

  set(name, value) {
    this.state[name] = value;
    this.show();
  }

  /** Where walkers from a word are, one share for each patch. */
  map(word) {
    const { words, levels, peaks, mostBounces } = this.facts;
    const { level, bounces, direction } = this.state;
    const side = direction === "incoming" ? 0 : 1;
    const place = ((side * levels.length + level) * mostBounces + bounces - 1) * words.length + word;
    const codes = this.codes.subarray(place * this.n, (place + 1) * this.n);
    return Float64Array.from(codes, (code) => (code / 65535) * peaks[place]);
  }

  /** Which name of the legend has each patch. */
  divide(maps) {
    if (maps.length === 1) return Array.from(maps[0], (value) => (value > 1 / this.n ? 0 : 1));
    return Array.from(maps[0].keys(), (patch) =>
      maps.reduce((best, map, word) => (map[patch] > maps[best][patch] ? word : best), 0));
  }

  show() {
    const { word, kept, level, bounces, strength } = this.state;
    this.maps = this.facts.words.map((_, w) => this.map(w));
    this.labels = this.divide(this.maps);
    this.values = word === null ? null : this.maps[word];
    this.scale = this.values && spanOf(this.values);
    this.stage.strength = strength;
    this.stage.colours = this.values ?
      Array.from(this.values, (value) => colourAt(this.table, this.scale.place(value))) :
      this.labels.map((label) => this.facts.legend[label].colour);
    this.stage.paint();
    this.buttons.forEach((button, w) => button.setAttribute("aria-pressed", String(w === kept)));
    id("bounces-text").textContent = bounces;
    id("level-text").textContent = this.facts.levels[level];
    id("strength-text").textContent = `${Math.round(100 * strength)} %`;
    id("legend").hidden = !this.values;
    if (this.values) showLegend({ ticks: id("ticks"), unit: id("unit") }, this.scale, this.n);
    this.showAreas();
    this.say();
    id("view").setAttribute("aria-busy", "false");
  }

  areas() {
    return this.facts.legend.map((_, label) =>
      this.labels.filter((own) => own === label).length / this.n);
  }

  showAreas() {
    const rows = this.areas().map((share, label) => {
      const { name } = this.facts.legend[label];
      return element("tr", {}, element("td", {}, name), element("td", {}, percent(share)));
    });
    id("areas").tBodies[0].replaceChildren(...rows);
  }

  say() {
    const { word } = this.state;
    const patch = this.stage.hovered;
    const names = this.facts.words;
    if (patch === null) {
      id("said").textContent = word === null ?
        this.areas().map((share, label) => `${this.facts.legend[label].name} ${percent(share)}`).join(", ") :
        `${names[word]}: most walkers at ${placeName(this.values.indexOf(Math.max(...this.values)), this.facts.columns)}`;
      return;
    }
    const there = this.maps.map((map) => map[patch]);
    const all = sum(there);
    const parts = names.map((name, w) => (names.length === 1 ?
      `${name} ${timesUniform(there[w], this.n)}` : `${name} ${percent(all > 0 ? there[w] / all : 0)}`));
    id("said").textContent = `${placeName(patch, this.facts.columns)}: ${parts.join(", ")}`;
  }

  save() {
    const { word, level, bounces, direction } = this.state;
    const names = this.facts.legend.map(({ name }, label) => `${label + 1} ${name}`).join(", ");
    const what = word === null ? names : `Walkers from “${this.facts.words[word]}”`;
    const lines = [what, `${bounces} bounce(s), ${direction}; ${this.facts.levels[level]}`, this.facts.model];
    const colours = this.facts.legend.map(({ colour }) => colour);
    const legend = this.values ? { kind: "scale", scale: this.scale, table: this.table } :
      { kind: "sets", sets: { prevalence: this.areas(), colours } };
    download(drawExport(this.stage, lines, legend), "words.png");
  }
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

id("picture").decode().then(() => {
  window.attnchain = new WordsPage(JSON.parse(id("facts").textContent), id("picture"));
});
