"use strict";
// Colour scales. Values: viridis, perceptually uniform and readable when colour-blind.
// Sets: the colours of Okabe and Ito, always shown with a number as well.

const SET_COLOURS = [
  [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167],
  [86, 180, 233], [213, 94, 0], [240, 228, 66], [120, 120, 120],
];
const DECADES = 3; // of the logarithmic scale
const CLIPPED = 0.005; // share of patches that may lie beyond the linear scale

/** 256 colours [r, g, b] from hexadecimal digits. */
function colourTable(digits) {
  return Array.from({ length: digits.length / 6 }, (_, i) =>
    [0, 2, 4].map((part) => parseInt(digits.slice(6 * i + part, 6 * i + part + 2), 16)));
}

/** A scale for some values: {low, high, clipped, place(value) in 0..1}. */
function scaleFor(values, kind) {
  const sorted = Float64Array.from(values).sort();
  const most = sorted[sorted.length - 1];
  if (kind === "log") {
    const low = most / 10 ** DECADES;
    const place = (value) => (value <= low ? 0 : 1 + Math.log10(value / most) / DECADES);
    return { kind, low, high: most, clipped: false, place };
  }
  const rank = sorted.length - 1 - Math.floor(sorted.length * CLIPPED);
  // A single occupied patch (bounce 0) has no share to clip.
  const high = sorted[rank] > 0 ? sorted[rank] : most;
  const place = (value) => Math.min(1, value / high);
  return { kind, low: 0, high, clipped: high < most, place };
}

/** A scale from the least to the most of some values. */
function spanOf(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const place = (value) => (high > low ? (value - low) / (high - low) : 1);
  return { kind: "linear", low, high, clipped: false, place };
}

/** The value at a place 0..1 of a scale. */
function valueAt(scale, place) {
  if (scale.kind === "log") return scale.high * 10 ** (DECADES * (place - 1));
  return scale.low + (scale.high - scale.low) * place;
}

function colourAt(table, place) {
  return table[Math.round(Math.max(0, Math.min(1, place)) * (table.length - 1))];
}

function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** Black or white, whichever reads better on a colour (relative luminance). */
function inkOn(colour) {
  const [red, green, blue] = colour.map((part) => {
    const x = part / 255;
    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}
