"use strict";
// Everything on screen, from the state and the newest answer.

function showPage(page) {
  const { state, stage, facts } = page;
  document.body.dataset.view = state.view;
  document.body.dataset.chain = state.chain;
  showControls(page);
  stage.start = state.view === "bounces" ? state.start : null;
  stage.strength = state.strength;
  stage.labels = [];
  if (state.view === "sets") {
    showSetView(page);
  } else {
    const values = page.values();
    stage.colours = null;
    if (values) {
      page.scale = scaleFor(values, state.scaleKind);
      stage.colours = Array.from(values, (x) => colourAt(page.table, page.scale.place(x)));
      const legend = { scale: id("scale"), ticks: id("ticks"), unit: id("unit") };
      showLegend(legend, page.scale, page.table, page.n);
    }
    if (page.rank) showRank(id("rank-facts"), page.rank, state);
    if (state.view === "bounces" && values) showStrip(page);
  }
  id("chain-text").textContent = `${chainName(page.chain(), state, facts)}.`;
  page.heads.show((layer, head) => (state.chain === "head"
    ? layer === state.layer && head === state.head
    : state.chosen.has(`${layer},${head}`)));
  showReadout(page);
  stage.paint();
}

/** Puts the state into sliders, radios and their texts. */
function showControls({ state, facts }) {
  for (const name of ["view", "chain", "direction"]) {
    for (const radio of document.getElementsByName(name)) {
      radio.checked = radio.value === state[name];
    }
  }
  const texts = {
    bounces: [state.bounce, state.bounce],
    damping: [state.damping, state.damping.toFixed(2)],
    layer: [state.layer, state.layer],
    head: [state.head, state.head],
    overlay: [Math.round(100 * state.strength), `${Math.round(100 * state.strength)} %`],
    count: [state.sets, setCountText(facts, state.sets)],
  };
  for (const [name, [value, text]] of Object.entries(texts)) {
    id(name).value = value;
    id(`${name}-text`).textContent = text;
    id(name).setAttribute("aria-valuetext", text);
  }
  id("weights").value = state.weights;
  id("scale-kind").value = state.scaleKind;
}

function setCountText({ sets, proposedSets }, index) {
  if (!sets.length) return "none";
  const { count } = sets[index];
  return `${count}${count === proposedSets ? " (largest gap)" : ""}`;
}

/** Colours each patch by its set, paler where it belongs less clearly. */
function showSetView({ state, stage, facts, memberships }) {
  const layers = facts.mixedLayers;
  const of = `|λ₂|-weighted mixture of layers ${runs(layers)}, undamped`;
  const sets = facts.sets[state.sets];
  if (!sets) {
    id("sets-help").textContent = `No sets were found: the ${of}, is reducible.`;
    stage.colours = null;
    return;
  }
  id("sets-help").textContent = `Of the ${of}. Prevalence: share of the stationary ` +
    "probability. Stays a bounce: probability not to leave within one bounce. Paler " +
    "patches belong to their set less clearly.";
  showSets(id("set-table").tBodies[0], sets);
  const belongs = memberships[state.sets];
  const n = sets.labels.length;
  stage.colours = sets.labels.map((set, patch) => {
    const share = Math.max(0, (belongs[set * n + patch] - 1 / sets.count) / (1 - 1 / sets.count));
    return SET_COLOURS[set].map((part) => Math.round(part + (255 - part) * 0.6 * (1 - share)));
  });
  stage.labels = sets.prevalence.map((_, set) => {
    const own = belongs.subarray(set * n, (set + 1) * n);
    return { text: String(set + 1), patch: innermost(sets.labels, set, own, facts.columns),
      colour: SET_COLOURS[set] };
  });
}

/** The patch of a set that is deepest inside it; of equals the surest member. */
function innermost(labels, set, belongs, columns) {
  const rows = labels.length / columns;
  let depth = labels.map((label) => (label === set ? 1 : 0));
  for (;;) {
    const deeper = depth.map((value, patch) => {
      const row = Math.floor(patch / columns);
      const column = patch % columns;
      const inside = row > 0 && row < rows - 1 && column > 0 && column < columns - 1;
      const level = Math.max(...depth);
      return inside && value === level && [-columns, columns, -1, 1]
        .every((step) => depth[patch + step] === level) ? level + 1 : value;
    });
    if (Math.max(...deeper) === Math.max(...depth)) break;
    depth = deeper;
  }
  const deepest = Math.max(...depth);
  let best = -1;
  depth.forEach((value, patch) => {
    if (value === deepest && (best < 0 || belongs[patch] > belongs[best])) best = patch;
  });
  return best;
}

/** Small pictures of all bounces, each with its own colour scale. */
function showStrip({ state, frames, n, table, facts, stripOf }) {
  const strip = id("strip");
  const buttons = [...strip.children];
  if (stripOf.frames !== frames || stripOf.kind !== state.scaleKind) {
    Object.assign(stripOf, { frames, kind: state.scaleKind });
    buttons.forEach((button, bounce) => {
      const values = frames.subarray(bounce * n, (bounce + 1) * n);
      const scale = scaleFor(values, state.scaleKind);
      const colours = Array.from(values, (x) => colourAt(table, scale.place(x)));
      button.querySelector("canvas").getContext("2d")
        .drawImage(patchImage(colours, facts.rows, facts.columns), 0, 0);
    });
  }
  buttons.forEach((button, bounce) => button.classList.toggle("now", bounce === state.bounce));
  const now = buttons[state.bounce];
  const hidden = now.offsetLeft < strip.scrollLeft ||
    now.offsetLeft + now.offsetWidth > strip.scrollLeft + strip.clientWidth;
  if (hidden) strip.scrollLeft = now.offsetLeft - strip.clientWidth / 2;
}

function showReadout(page) {
  const { state, stage, busy } = page;
  const values = state.view === "sets" || busy ? null : page.values();
  const show = (name, patch) => {
    const { place, value, detail } = describePatch(page, values, patch);
    id(name).replaceChildren(element("b", {}, value), element("span", {}, detail),
      element("span", {}, place));
  };
  id("read-start").parentElement.hidden = state.view !== "bounces";
  id("read-largest").parentElement.hidden = state.view === "sets";
  show("read-start", state.start);
  show("read-pointer", stage.hovered);
  show("read-largest", values && values.indexOf(values.reduce((a, b) => Math.max(a, b))));
}

/** A patch in words: {place, value, detail}; dashes where there is nothing to say. */
function describePatch({ state, facts, memberships, n }, values, patch) {
  if (patch === null) return { place: "", value: "–", detail: "" };
  const place = placeName(patch, facts.columns);
  if (values) {
    return { place, value: probability(values[patch]), detail: timesUniform(values[patch], n) };
  }
  const sets = facts.sets[state.sets];
  if (state.view !== "sets" || !sets) return { place, value: "…", detail: "" };
  const set = sets.labels[patch];
  const share = memberships[state.sets][set * n + patch];
  return { place, value: `Set ${set + 1}`, detail: `membership ${share.toFixed(3)}` };
}
