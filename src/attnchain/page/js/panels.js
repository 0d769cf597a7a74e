"use strict";
// Numbers in words: legend, readouts, table of sets, what the chain is.

/** A probability with 4 significant digits. */
function probability(value) {
  if (value === 0) return "0";
  return value < 1e-4 ? scientific(value, 3) : value.toPrecision(4);
}

/** "8.7 × 10⁻⁶", kept on one line. */
function scientific(value, digits = 2) {
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const raised = [...exponent.replace("+", "")]
    .map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
  return `${mantissa}\u00a0×\u00a010${raised}`;
}

/** A value in units of the uniform distribution. */
function timesUniform(value, n) {
  const times = value * n;
  const digits = times >= 100 ? 0 : times >= 10 ? 1 : times >= 0.1 ? 2 : 3;
  return `${times.toFixed(digits)}\u00a0× uniform`;
}

function placeName(patch, columns) {
  return `row ${Math.floor(patch / columns)}, column ${patch % columns}`;
}

/** "0-2, 5": runs of whole numbers. */
function runs(numbers) {
  const parts = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    const last = parts.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([a, b]) => (a === b ? `${a}` : `${a}–${b}`)).join(", ");
}

/** The chain in words, from [layer, head, weight] triples. */
function chainName(chain, { chain: kind, weights }, { heads, lambda2 }) {
  if (kind === "head") {
    const [[layer, head]] = chain;
    return `Layer ${layer}, head ${head}, |λ₂| = ${lambda2[layer][head].toFixed(4)}`;
  }
  const layers = [...new Set(chain.map(([layer]) => layer))];
  const whole = chain.length === layers.length * heads;
  const weighted = weights === "lambda2" ? "|λ₂|-weighted mixture" : "Uniform mixture";
  const plural = layers.length > 1 ? "layers" : "layer";
  return `${weighted} of ${chain.length} ${chain.length > 1 ? "heads" : "head"}, ` +
    `${whole ? "" : "in "}${plural} ${runs(layers)}`;
}

/** Paints the colours, from the lowest to the highest. */
function paintScale(canvas, table) {
  const context = canvas.getContext("2d");
  table.forEach((colour, x) => {
    context.fillStyle = css(colour);
    context.fillRect(x, 0, 1, 1);
  });
}

/** Fills the legend: three ticks and the unit. */
function showLegend({ ticks, unit }, scale, n) {
  ticks.replaceChildren(...[0, 0.5, 1].map((place) => {
    const value = valueAt(scale, place);
    const sign = place === 1 && scale.clipped ? "≥ " : place === 0 && scale.kind === "log" ? "≤ " : "";
    return element("span", {}, sign + probability(value));
  }));
  unit.textContent = `Probability of each patch, ${scale.kind} scale; ` +
    `uniform is 1/${n} = ${probability(1 / n)}.` +
    (scale.clipped ? " The 0.5 % largest share the last colour." : "");
}

/** The rows of the table of sets. */
function showSets(body, sets) {
  const patches = Array(sets.count).fill(0);
  for (const label of sets.labels) patches[label] += 1;
  body.replaceChildren(...patches.map((size, set) => {
    const chip = element("span", { className: "chip" }, String(set + 1));
    chip.style.background = css(SET_COLOURS[set]);
    chip.style.color = inkOn(SET_COLOURS[set]);
    const percent = (x) => (x === null ? "–" : `${(100 * x).toFixed(1)} %`);
    return element("tr", {}, element("th", { scope: "row" }, chip),
      element("td", {}, percent(sets.prevalence[set])),
      element("td", {}, percent(sets.retention[set])), element("td", {}, String(size)));
  }));
}

/** The certificate of TokenRank, as terms and values. */
function showRank(list, { change, bound, bounces }, { damping, direction }) {
  const outgoing = direction === "outgoing";
  const rule = outgoing ? "ρ/(1 − ρ) × change, ρ the contraction of a bounce"
    : `α/(1 − α) × change, α = ${damping}`;
  const rows = [
    ["Bounces", String(bounces)],
    ["Last change (L1)", scientific(change)],
    ["Error (L1) at most", Number.isFinite(bound) ? scientific(bound)
      : "no bound: nothing contracts at damping 1"],
    ["Bound", Number.isFinite(bound) ? rule : "–"],
  ];
  list.replaceChildren(...rows.map(([term, value]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, value))));
}

/** Sets with the set of each patch, and its membership in that set, as numbers. */
function unpackSets(sets) {
  const bytes = Uint8Array.from(atob(sets.memberships), (c) => c.charCodeAt(0));
  return {
    ...sets,
    count: sets.prevalence.length,
    labels: Array.from(sets.labels, Number),
    memberships: Float64Array.from(new Uint16Array(bytes.buffer), (x) => x / 65535),
  };
}
