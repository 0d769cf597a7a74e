"use strict";
// The picture with one colour for each patch, and the patch under a pointer or key.

class Stage {
  constructor(canvas, picture, { rows, columns }) {
    Object.assign(this, { canvas, picture, rows, columns });
    this.colours = null; // [r, g, b] of each patch
    this.strength = 0;
    this.start = null;
    this.hovered = null;
    this.labels = [];
    this.grey = greyCopy(picture);
    const ratio = picture.naturalWidth / picture.naturalHeight;
    canvas.style.aspectRatio = ratio;
    canvas.style.maxWidth = `calc(${ratio} * var(--tallest))`;
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  /** The patch under a pointer event, the nearest one when it has left the picture. */
  patchAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const within = (x, size, count) =>
      Math.max(0, Math.min(count - 1, Math.floor((x / size) * count)));
    return within(event.clientY - box.top, box.height, this.rows) * this.columns +
      within(event.clientX - box.left, box.width, this.columns);
  }

  /** The patch some rows and columns away, kept inside the picture. */
  neighbour(patch, down, right) {
    const clamp = (x, count) => Math.max(0, Math.min(count - 1, x));
    const row = clamp(Math.floor(patch / this.columns) + down, this.rows);
    return row * this.columns + clamp((patch % this.columns) + right, this.columns);
  }

  paint() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    if (box.width === 0) return;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    this.paintOn(this.canvas.getContext("2d"), this.canvas.width, this.canvas.height, {
      unit: ratio,
      hovered: this.hovered,
    });
  }

  /** Paints on any canvas; `unit` is the width of a thin line in its pixels. */
  paintOn(context, width, height, { unit, hovered = null }) {
    context.drawImage(this.picture, 0, 0, width, height);
    if (this.colours && this.strength > 0) {
      context.globalAlpha = Math.min(1, 2 * this.strength);
      context.drawImage(this.grey, 0, 0, width, height);
      context.globalAlpha = this.strength;
      context.imageSmoothingEnabled = false;
      context.drawImage(patchImage(this.colours, this.rows, this.columns),
        0, 0, width, height);
      context.imageSmoothingEnabled = true;
      context.globalAlpha = 1;
    }
    for (const label of this.labels) this.paintLabel(context, width, height, label, unit);
    if (hovered !== null) this.frame(context, width, height, hovered, unit, 1);
    if (this.start !== null) this.frame(context, width, height, this.start, unit, 2);
  }

  frame(context, width, height, patch, unit, weight) {
    const w = width / this.columns;
    const h = height / this.rows;
    const x = (patch % this.columns) * w;
    const y = Math.floor(patch / this.columns) * h;
    context.lineJoin = "round";
    for (const [colour, line] of [["#000", 2 * weight + 1.5], ["#fff", weight]]) {
      context.strokeStyle = colour;
      context.lineWidth = line * unit;
      context.strokeRect(x, y, w, h);
    }
  }

  paintLabel(context, width, height, { text, patch, colour }, unit) {
    const x = ((patch % this.columns) + 0.5) * (width / this.columns);
    const y = (Math.floor(patch / this.columns) + 0.5) * (height / this.rows);
    context.beginPath();
    context.arc(x, y, 11 * unit, 0, 2 * Math.PI);
    context.fillStyle = css(colour);
    context.fill();
    context.lineWidth = 1.5 * unit;
    context.strokeStyle = inkOn(colour);
    context.stroke();
    context.fillStyle = inkOn(colour);
    context.font = `600 ${13 * unit}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x, y + 0.5 * unit);
  }
}

/** A canvas of one pixel for each patch. */
function patchImage(colours, rows, columns) {
  const image = new ImageData(columns, rows);
  colours.forEach(([red, green, blue], patch) => {
    image.data.set([red, green, blue, 255], 4 * patch);
  });
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function greyCopy(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = image;
  for (let i = 0; i < data.length; i += 4) {
    const grey = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
    data[i] = data[i + 1] = data[i + 2] = grey;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
