"use strict";
// The view as a PNG: picture, legend and what it shows, on white.

const PNG_WIDTH = 1200;
const MARGIN = 24;
const LINE = 26;

/** Draws the export on a new canvas. `legend` is {kind: "scale", ...} or {kind: "sets", ...}. */
function drawExport(stage, lines, legend) {
  const { naturalWidth, naturalHeight } = stage.picture;
  const width = PNG_WIDTH - 2 * MARGIN;
  const height = Math.round((width * naturalHeight) / naturalWidth);
  const canvas = document.createElement("canvas");
  canvas.width = PNG_WIDTH;
  canvas.height = height + 3 * MARGIN + 60 + LINE * lines.length;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.save();
  context.translate(MARGIN, MARGIN);
  stage.paintOn(context, width, height, { unit: 2 });
  context.translate(0, height + MARGIN / 2);
  if (legend.kind === "scale") drawScale(context, width, legend);
  else drawSetKey(context, legend.sets);
  context.translate(0, 60 + MARGIN / 2);
  context.textBaseline = "top";
  context.textAlign = "left";
  lines.forEach((line, i) => {
    context.fillStyle = i === 0 ? "#000" : "#444";
    context.font = `${i === 0 ? 600 : 400} 18px system-ui, sans-serif`;
    context.fillText(line, 0, i * LINE, width);
  });
  context.restore();
  return canvas;
}

function drawScale(context, width, { scale, table }) {
  table.forEach((colour, i) => {
    context.fillStyle = css(colour);
    context.fillRect((i * width) / table.length, 0, width / table.length + 1, 18);
  });
  context.fillStyle = "#000";
  context.font = "18px system-ui, sans-serif";
  context.textBaseline = "top";
  for (const [place, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
    context.textAlign = align;
    const sign = place === 1 && scale.clipped ? "≥ " : "";
    context.fillText(sign + probability(valueAt(scale, place)), place * width, 26);
  }
}

function drawSetKey(context, sets) {
  context.font = "600 18px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "left";
  sets.prevalence.forEach((share, set) => {
    const x = set * 140;
    context.fillStyle = css((sets.colours ?? SET_COLOURS)[set]);
    context.fillRect(x, 8, 26, 26);
    context.fillStyle = "#000";
    context.fillText(`${set + 1}: ${(100 * share).toFixed(1)} %`, x + 34, 22);
  });
}

function download(canvas, name) {
  canvas.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/png");
}
