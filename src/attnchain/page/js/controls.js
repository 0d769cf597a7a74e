"use strict";
// Wires sliders, buttons, pointer and keys to the page.

function connect(page) {
  connectInputs(page);
  connectPointer(page);
  connectKeys(page);
  makeStrip(page);
  id("save").addEventListener("click", () => exportPage(page));
}

function connectInputs(page) {
  const on = (name, change) => id(name).addEventListener("input", ({ target }) => {
    if (name === "bounces") page.stop();
    page.set(change(target.value));
  });
  on("bounces", (value) => ({ bounce: Number(value), target: Number(value) }));
  on("damping", (value) => ({ damping: Number(value) }));
  on("layer", (value) => ({ layer: Number(value) }));
  on("head", (value) => ({ head: Number(value) }));
  on("overlay", (value) => ({ strength: Number(value) / 100 }));
  on("count", (value) => ({ sets: Number(value) }));
  on("weights", (value) => ({ weights: value }));
  on("scale-kind", (value) => ({ scaleKind: value }));
  for (const name of ["view", "chain", "direction"]) {
    for (const radio of document.getElementsByName(name)) {
      radio.addEventListener("change", () => {
        page.stop();
        page.set({ [name]: radio.value });
      });
    }
  }
  id("play").addEventListener("click", () => {
    if (page.timer) page.stop();
    else page.play(BOUNCES);
  });
  id("reset").addEventListener("click", () => {
    const { chosen, weights } = page.initial();
    page.set({ chosen, weights });
  });
}

function connectPointer(page) {
  const { stage } = page;
  const { canvas } = stage;
  let dragging = false;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || page.state.view !== "bounces") return;
    dragging = event.pointerType === "mouse";
    if (dragging) canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    stage.hovered = stage.patchAt(event);
    if (dragging && event.buttons === 1 && stage.hovered !== page.state.start) {
      page.startAt(stage.hovered, { animate: false });
    } else {
      showReadout(page);
      stage.paint();
    }
  });
  canvas.addEventListener("pointerleave", () => {
    stage.hovered = null;
    showReadout(page);
    stage.paint();
  });
  canvas.addEventListener("pointerup", () => { dragging = false; });
  canvas.addEventListener("pointercancel", () => { dragging = false; });
  canvas.addEventListener("click", (event) => {
    const patch = stage.patchAt(event);
    stage.hovered = patch;
    if (page.state.view === "bounces") page.startAt(patch, { animate: true });
    else showPage(page);
  });
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function connectKeys(page) {
  const { stage } = page;
  const actions = {
    " ": () => id("play").click(),
    ",": () => page.bounceBy(-1),
    ".": () => page.bounceBy(1),
    d: () => page.set({
      direction: page.state.direction === "incoming" ? "outgoing" : "incoming",
    }),
    1: () => page.set({ view: "bounces" }),
    2: () => page.set({ view: "rank" }),
    3: () => page.set({ view: "sets" }),
  };
  stage.canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) {
      const [down, right] = arrow.map((step) => step * (event.shiftKey ? 4 : 1));
      page.moveBy(down, right);
    } else if (actions[event.key]) {
      actions[event.key]();
    } else {
      return;
    }
    event.preventDefault();
  });
}

function makeStrip(page) {
  const { rows, columns } = page.facts;
  for (let bounce = 0; bounce <= BOUNCES; bounce++) {
    const canvas = element("canvas", { width: columns, height: rows });
    const button = element("button", { type: "button", tabIndex: -1 }, canvas, `${bounce}`);
    button.addEventListener("click", () => {
      page.stop();
      page.set({ bounce, target: bounce });
    });
    id("strip").append(button);
  }
}

function exportPage(page) {
  const { state, facts, stage } = page;
  const start = placeName(state.start, facts.columns);
  const walk = `${state.direction}, damping ${state.damping.toFixed(2)}`;
  const what = {
    bounces: `Bounce ${state.bounce} from ${start}; ${walk}`,
    rank: `TokenRank; ${walk}`,
    sets: page.sets() ? `${page.sets().count} metastable sets and their prevalence`
      : "No metastable sets",
  }[state.view];
  const chain = chainName(page.chain(), state, facts) +
    (state.view === "sets" ? ", undamped" : "");
  const lines = [what, `${chain}; ${facts.model}, ${facts.rows} × ${facts.columns} patches`];
  const legend = state.view === "sets"
    ? { kind: "sets", sets: page.sets() ?? { prevalence: [] } }
    : { kind: "scale", scale: page.scale, table: page.table };
  if (legend.kind === "scale") lines.push(id("unit").textContent);
  const name = `${facts.title.replace(/\.[a-z]+$/i, "")}-${state.view}.png`;
  download(drawExport(stage, lines, legend), name);
}
