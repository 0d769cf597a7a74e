"use strict";
// The worker: keeps the chains, answers the newest question, drops older ones.
// It is started from the text of chain.js and this file.

const TOLERANCE = 1e-5; // certified L1 error of TokenRank
const MOST_BOUNCES = 20000;
const KEPT = 3; // matrices kept

function startWorker() {
  const matrices = new Map();
  const unpacked = new Map();
  let setup = null;
  let newest = null;
  let working = false;

  self.onmessage = async ({ data }) => {
    if (data.kind === "setup") {
      setup = data;
      return;
    }
    newest = data;
    if (working) return;
    working = true;
    while (newest) {
      const question = newest;
      newest = null;
      try {
        await answer(question);
      } catch (error) {
        self.postMessage({ kind: "failure", id: question.id, text: String(error) });
      }
    }
    working = false;
  };

  /** Lets messages in; true when the question at hand is no longer wanted. */
  async function overtaken() {
    await new Promise((resolve) => setTimeout(resolve));
    return newest !== null;
  }

  async function answer(question) {
    const matrix = await matrixOf(question);
    if (!matrix) return;
    const n = setup.states;
    const walk = dampedWalk(matrix, n, question.damping, question.direction);
    const result = question.ask === "rank"
      ? await tokenRank(walk, n)
      : { frames: frames(question, walk, n) };
    if (result) self.postMessage({ kind: "answer", id: question.id, ...result });
  }

  async function matrixOf(question) {
    const key = JSON.stringify(question.chain);
    let matrix = matrices.get(key);
    if (!matrix) {
      matrix = await mixed(question, key);
      if (!matrix) return null;
    }
    matrices.delete(key);
    matrices.set(key, matrix);
    if (matrices.size > KEPT) matrices.delete(matrices.keys().next().value);
    return matrix;
  }

  /** The mixture of [layer, head, weight] triples; null when overtaken. */
  async function mixed({ chain }, key) {
    const n = setup.states;
    const matrix = new Float32Array(n * n);
    for (const [done, [layer, head, weight]] of chain.entries()) {
      self.postMessage({ kind: "progress", done, total: chain.length });
      if (!unpacked.has(layer)) {
        unpacked.set(layer, await unpackLayer(setup.layers[layer], setup));
      }
      addHead(matrix, unpacked.get(layer)[head], weight, n, setup.causal);
      if (await overtaken() && JSON.stringify(newest.chain) !== key) return null;
    }
    return matrix;
  }

  /** Bounces 0..n from one patch, one after the other. */
  function frames({ start, bounces }, walk, n) {
    const all = new Float64Array((bounces + 1) * n);
    let walker = new Float64Array(n);
    walker[start] = 1;
    all.set(walker, 0);
    for (let b = 1; b <= bounces; b++) {
      walker = walk.bounce(walker);
      all.set(walker, b * n);
    }
    return all;
  }

  /** Power iteration with the stop factor / (1 - factor) * change <= TOLERANCE. */
  async function tokenRank(walk, n) {
    let values = new Float64Array(n).fill(1 / n);
    let change = Infinity;
    let bound = Infinity;
    let bounces = 0;
    while (bounces < MOST_BOUNCES && change > 1e-13 && bound > TOLERANCE) {
      const next = walk.bounce(values);
      change = distance(values, next);
      bound = walk.factor < 1 ? (walk.factor / (1 - walk.factor)) * change : Infinity;
      if (bound === Infinity && change < 1e-9) bounces = MOST_BOUNCES;
      values = next;
      bounces += 1;
      if (bounces % 100 === 0) {
        self.postMessage({ kind: "progress", bounces, change });
        if (await overtaken()) return null;
      }
    }
    return { frames: values, rank: { change, bound, bounces } };
  }
}
