"use strict";
// Everything on screen, from the state and the newest answer.

const HINTS = {
  bounces: "Click or tap a patch: its attention bounces on from there.",
  rank: "Where a walker is in the long run, wherever it started: the stationary distribution.",
  sets: "Groups of patches that attention rarely leaves. Point at or tap a patch for its set.",
};

function showPage(page) {
  const { state, stage, facts } = page;
  document.body.dataset.view = state.view;
  document.body.dataset.chain = state.chain;
  id("hint").textContent = HINTS[state.view];
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
      showLegend({ ticks: id("ticks"), unit: id("unit") }, page.scale, page.n);
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
function showControls(page) {
  const { state, facts } = page;
  for (const name of ["view", "chain", "direction"]) {
    for (const radio of document.getElementsByName(name)) {
      radio.checked = radio.value === state[name];
    }
  }
  const choices = page.setChoices();
  id("count").max = Math.max(0, choices.length - 1);
  id("count").disabled = choices.length < 2;
  const texts = {
    bounces: [state.bounce, state.bounce],
    damping: [state.damping, state.damping.toFixed(2)],
    layer: [state.layer, state.layer],
    head: [state.head, state.head],
    overlay: [Math.round(100 * state.strength), `${Math.round(100 * state.strength)} %`],
    count: [Math.max(0, choices.indexOf(page.sets())), setCountText(page)],
  };
  for (const [name, [value, text]] of Object.entries(texts)) {
    id(name).value = value;
    id(`${name}-text`).textContent = text;
    id(name).setAttribute("aria-valuetext", text);
  }
  id("weights").value = state.weights;
  id("scale-kind").value = state.scaleKind;
}

function setCountText(page) {
  const sets = page.sets();
  if (!sets) return "none";
  const isProposed = page.state.chain === "head" || sets.count === page.facts.proposedSets;
  return `${sets.count}${isProposed ? " (largest gap)" : ""}`;
}

/** Why the chain in use has no sets. */
function whyNoSets({ state, facts }) {
  const none = "its chain is reducible or nearly so, or its sets could not be told apart.";
  const usual = `the |λ₂|-weighted mixture of layers ${runs(facts.mixedLayers)}`;
  if (state.chain === "head") {
    return `No sets were found for layer ${state.layer}, head ${state.head}: ${none}`;
  }
  if (!facts.sets.length) return `No sets were found for ${usual}: ${none}`;
  return `Sets were computed for ${usual}, and for every single head. There are none for ` +
    "this mixture: choose Default heads or One head.";
}

/** Colours each patch by its set, paler where it belongs less clearly. */
function showSetView(page) {
  const { stage, facts } = page;
  const sets = page.sets();
  id("set-table").hidden = !sets;
  if (!sets) {
    id("sets-help").textContent = whyNoSets(page);
    stage.colours = null;
    return;
  }
  id("sets-help").textContent = "Of the undamped chain. Prevalence: share of the stationary " +
    "probability. Stays a bounce: probability not to leave within one bounce. Paler " +
    "patches belong to their set less clearly.";
  showSets(id("set-table").tBodies[0], sets);
  const { labels, memberships, count } = sets;
  stage.colours = labels.map((set, patch) => {
    const share = Math.max(0, (memberships[patch] - 1 / count) / (1 - 1 / count));
    return SET_COLOURS[set].map((part) => Math.round(part + (255 - part) * 0.6 * (1 - share)));
  });
  stage.labels = [...new Set(labels)].map((set) => ({
    text: String(set + 1),
    patch: innermost(labels, set, memberships, facts.columns),
    colour: SET_COLOURS[set],
  }));
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
function describePatch(page, values, patch) {
  const { state, facts, n } = page;
  if (patch === null) return { place: "", value: "–", detail: "" };
  const place = placeName(patch, facts.columns);
  if (values) {
    return { place, value: probability(values[patch]), detail: timesUniform(values[patch], n) };
  }
  if (state.view !== "sets") return { place, value: "…", detail: "" };
  const sets = page.sets();
  if (!sets) return { place, value: "–", detail: "no sets" };
  const membership = sets.memberships[patch].toFixed(3);
  return { place, value: `Set ${sets.labels[patch] + 1}`, detail: `membership ${membership}` };
}
