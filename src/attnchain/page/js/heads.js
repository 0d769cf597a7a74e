"use strict";
// The table of |lambda_2|, one cell for each layer and head, to choose heads from.

class HeadTable {
  constructor(table, { lambda2, heads }, colours, onChoose) {
    Object.assign(this, { table, heads, lambda2, onChoose });
    this.place = [0, 0]; // the cell that Tab reaches
    const top = element("tr", {}, element("th", { className: "corner", scope: "col" }, "Head"));
    for (let head = 0; head < heads; head++) {
      top.append(element("th", { scope: "col", title: `Head ${head}` }, `${head}`));
    }
    table.append(element("thead", {}, top));
    const body = element("tbody");
    this.cells = lambda2.map((row, layer) => {
      const line = element("tr", {}, this.layerName(layer));
      const cells = row.map((value, head) => this.cell(layer, head, value, colours));
      for (const cell of cells) line.append(element("td", {}, cell));
      body.append(line);
      return cells;
    });
    table.append(body);
    table.addEventListener("keydown", (event) => this.move(event));
  }

  layerName(layer) {
    const button = element("button", { type: "button", className: "name", tabIndex: -1 },
      `Layer ${layer}`);
    button.title = `All heads of layer ${layer}`;
    button.addEventListener("click", () => this.onChoose(layer, null));
    return element("th", { scope: "row" }, button);
  }

  cell(layer, head, value, colours) {
    const colour = colourAt(colours, value);
    const text = value >= 0.9995 ? "1.00" : value.toFixed(value > 0.99 ? 3 : 2);
    const cell = element("button", { type: "button", className: "cell", tabIndex: -1 },
      text.replace(/^0/, ""));
    cell.style.background = css(colour);
    cell.style.color = inkOn(colour);
    cell.title = `Layer ${layer}, head ${head}: |λ₂| = ${value.toFixed(4)}`;
    cell.setAttribute("aria-label", cell.title);
    cell.addEventListener("click", () => {
      this.focusable(layer, head);
      this.onChoose(layer, head);
    });
    return cell;
  }

  focusable(layer, head) {
    this.cells[this.place[0]][this.place[1]].tabIndex = -1;
    this.place = [layer, head];
    this.cells[layer][head].tabIndex = 0;
  }

  move(event) {
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    const clamp = (x, count) => Math.max(0, Math.min(count - 1, x));
    this.focusable(clamp(this.place[0] + step[0], this.cells.length),
      clamp(this.place[1] + step[1], this.heads));
    this.cells[this.place[0]][this.place[1]].focus();
  }

  /** Frames the cells in use, given as `isUsed(layer, head)`; Tab reaches one of them. */
  show(isUsed) {
    const used = [];
    this.cells.forEach((row, layer) => row.forEach((cell, head) => {
      cell.setAttribute("aria-pressed", String(isUsed(layer, head)));
      if (isUsed(layer, head)) used.push([layer, head]);
    }));
    const stays = isUsed(...this.place) || this.table.contains(document.activeElement);
    this.focusable(...(stays ? this.place : used[0]));
  }
}

/** An element with properties and children. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
