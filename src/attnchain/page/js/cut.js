"use strict";
// On the object page of `attnchain serve`: marks, the mask under them, downloads.

const facts = JSON.parse(document.getElementById("facts").textContent);
const picture = document.getElementById("source");
const canvas = document.getElementById("canvas");
const view = document.getElementById("view");
const note = document.getElementById("said");
const overlay = document.getElementById("overlay");
const word = window.location.pathname.split("/").pop();
const stem = facts.title.replace(/\.[^.]*$/, "") || "picture";

const marks = []; // {point: [x, y], positive} or {box: [x0, y0, x1, y1]}
let answer = null; // of the server, to `marks` as they were asked
let tint = null; // the mask as a canvas
let asking = false;
let changed = false;
let dragged = null; // corners of the box that is being drawn
let cross = null; // where the keys are

const ratio = facts.width / facts.height;
canvas.style.aspectRatio = ratio;
canvas.style.maxWidth = `calc(${ratio} * var(--tallest))`;
new ResizeObserver(paint).observe(canvas);
picture.decode().then(paint);

function paint() {
  const box = canvas.getBoundingClientRect();
  if (box.width === 0) return;
  const dense = window.devicePixelRatio || 1;
  canvas.width = Math.round(box.width * dense);
  canvas.height = Math.round(box.height * dense);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (tint) {
    context.globalAlpha = overlay.value / 100;
    context.drawImage(tint, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }
  const scale = canvas.width / facts.width;
  for (const mark of marks) paintMark(context, mark, scale, dense);
  if (dragged) paintMark(context, { box: dragged }, scale, dense);
  if (cross) paintMark(context, { cross }, scale, dense);
}

/** One mark, white below its colour so that it shows on any picture. */
function paintMark(context, { point, positive, box, cross: at }, scale, dense) {
  const strokes = [["#fff", 4], [positive === false ? "#d55e00" : "#0072b2", 2]];
  for (const [colour, width] of strokes) {
    context.strokeStyle = colour;
    context.lineWidth = width * dense;
    context.beginPath();
    if (box) {
      const [x0, y0, x1, y1] = box.map((value) => value * scale);
      context.rect(x0, y0, x1 - x0, y1 - y0);
    } else {
      const [x, y] = (point ?? at).map((value) => value * scale);
      const arm = (at ? 12 : 7) * dense;
      context.moveTo(x - arm, y);
      context.lineTo(x + arm, y);
      if (positive !== false) {
        context.moveTo(x, y - arm);
        context.lineTo(x, y + arm);
      }
    }
    context.stroke();
  }
}

/** Where a pointer is, in pixels of the picture, kept inside of it. */
function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  const within = (at, size, count) =>
    Math.max(0, Math.min(count - 1, Math.floor((at / size) * count)));
  return [within(event.clientX - box.left, box.width, facts.width),
    within(event.clientY - box.top, box.height, facts.height)];
}

function tool() {
  return document.querySelector('input[name="tool"]:checked').value;
}

function add(mark) {
  // As in `Clicks.box`: a later box replaces it.
  const old = mark.box ? marks.findIndex((other) => other.box) : -1;
  if (old >= 0) marks.splice(old, 1);
  marks.push(mark);
  update();
}

function update() {
  const count = marks.length;
  for (const name of ["undo", "clear"]) document.getElementById(name).disabled = !count;
  document.getElementById("count").textContent = count || "none";
  paint();
  ask();
}

/** Asks for the mask under the newest marks; while it waits, only the newest count. */
async function ask() {
  changed = true;
  if (asking) return;
  asking = true;
  view.setAttribute("aria-busy", "true");
  enableSaving(false);
  while (changed) {
    changed = false;
    const positive = marks.some((mark) => mark.box || mark.positive);
    if (positive) {
      if (!answer) note.textContent = "Reading the picture…";
      show(await sent(`/objects/${word}`));
    } else {
      show({ error: marks.length ? "Mark the object, too." : "Click on the object." });
    }
    await drawn();
  }
  asking = false;
  enableSaving(answer !== null);
  view.setAttribute("aria-busy", "false");
}

function enableSaving(possible) {
  for (const button of document.querySelectorAll(".save")) button.disabled = !possible;
}

async function sent(place) {
  try {
    const reply = await fetch(place, { method: "POST", body: JSON.stringify(marks) });
    return await reply.json();
  } catch {
    return { error: "The connection was lost: the server has stopped." };
  }
}

function show(found) {
  answer = found.error === undefined ? found : null;
  note.textContent = found.error ?? "";
  document.getElementById("share").textContent =
    answer ? `${(100 * answer.share).toFixed(1)} %` : "–";
}

/** The mask as a tint; nothing where there is none. */
async function drawn() {
  if (answer) {
    const mask = new Image();
    mask.src = `data:image/png;base64,${answer.mask}`;
    await mask.decode();
    tint = document.createElement("canvas");
    tint.width = mask.naturalWidth;
    tint.height = mask.naturalHeight;
    const context = tint.getContext("2d");
    context.drawImage(mask, 0, 0);
    const pixels = context.getImageData(0, 0, tint.width, tint.height);
    const data = pixels.data;
    for (let i = 0; i < data.length; i += 4) {
      data[i + 3] = data[i];
      data[i] = 0;
      data[i + 1] = 158;
      data[i + 2] = 255;
    }
    context.putImageData(pixels, 0, 0);
  } else {
    tint = null;
  }
  paint();
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button === 1) return;
  if (tool() === "box" && event.button === 0) {
    dragged = [...placeOf(event), ...placeOf(event)];
    canvas.setPointerCapture(event.pointerId);
  } else {
    const positive = tool() !== "off" && !event.shiftKey && event.button === 0;
    add({ point: placeOf(event), positive });
  }
});
canvas.addEventListener("pointermove", (event) => {
  if (!dragged) return;
  dragged = [...dragged.slice(0, 2), ...placeOf(event)];
  paint();
});
canvas.addEventListener("pointerup", () => {
  if (!dragged) return;
  const [x0, y0, x1, y1] = dragged;
  dragged = null;
  const box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1) + 1, Math.max(y0, y1) + 1];
  if (box[2] - box[0] > 2 && box[3] - box[1] > 2) add({ box });
  else paint();
});
canvas.addEventListener("pointercancel", () => {
  dragged = null;
  paint();
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

canvas.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  const choice = { "+": "on", "-": "off" }[event.key];
  if (!step && !choice && event.key !== "Enter") return;
  event.preventDefault();
  cross ??= [Math.floor(facts.width / 2), Math.floor(facts.height / 2)];
  if (step) {
    const far = event.shiftKey ? 1 : Math.ceil(Math.max(facts.width, facts.height) / 50);
    const inside = (x, count) => Math.max(0, Math.min(count - 1, x));
    cross = [inside(cross[0] + far * step[0], facts.width),
      inside(cross[1] + far * step[1], facts.height)];
    paint();
  } else if (event.key === "Enter") {
    add({ point: [...cross], positive: tool() !== "off" });
  } else {
    document.querySelector(`input[name="tool"][value="${choice}"]`).checked = true;
  }
});
canvas.addEventListener("blur", () => {
  cross = null;
  paint();
});

function undo() {
  if (marks.pop()) update();
}

document.getElementById("undo").addEventListener("click", undo);
document.getElementById("clear").addEventListener("click", () => {
  marks.length = 0;
  update();
});
window.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z") {
    event.preventDefault();
    undo();
  }
});
overlay.addEventListener("input", () => {
  document.getElementById("overlay-text").textContent = `${overlay.value} %`;
  paint();
});

function saved(blob, ending) {
  const href = URL.createObjectURL(blob);
  element("a", { href, download: `${stem}${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

function png(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

document.getElementById("save-mask").addEventListener("click", () => {
  saved(png(answer.mask), "-mask.png");
});
document.getElementById("save-json").addEventListener("click", () => {
  const text = `${JSON.stringify(answer.facts, null, 2)}\n`;
  saved(new Blob([text], { type: "application/json" }), "-object.json");
});
document.getElementById("save-cutout").addEventListener("click", async () => {
  const { cutout, error } = await sent(`/cutouts/${word}`);
  if (cutout) saved(png(cutout), "-cutout.png");
  else note.textContent = error;
});

update();
