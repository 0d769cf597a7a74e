"use strict";
// Chains from stored queries and keys, and walks on them. Used inside the worker.

/** Inflates one layer and returns its heads: {q, k}, one row for each component. */
async function unpackLayer(text, { heads, width, columns, states }) {
  const stream = new Blob([bytesOf(text)]).stream()
    .pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const steps = new Float32Array(bytes.buffer, 0, heads * 2 * width);
  const splits = bytes.subarray(steps.byteLength, steps.byteLength + steps.length);
  let offset = steps.byteLength + steps.length;
  return Array.from({ length: heads }, (_, head) => {
    const first = head * 2 * width;
    const own = splits.subarray(first, first + 2 * width);
    const unpacked = unpackHead(bytes, offset, own, steps.subarray(first), { columns, n: states });
    offset = unpacked.end;
    return unpacked;
  });
}

/** Bytes from text: five digits to base 85, from # on (~ stands for <), for four bytes. */
function bytesOf(text) {
  const missing = (5 - (text.length % 5)) % 5;
  const length = text.length + missing;
  const values = new DataView(new ArrayBuffer((length / 5) * 4));
  for (let i = 0, value = 0; i < length; i++) {
    const code = i < text.length ? text.charCodeAt(i) : 119; // the largest digit
    value = 85 * value + (code === 126 ? 60 : code) - 35;
    if (i % 5 === 4) {
      values.setUint32(((i - 4) / 5) * 4, value);
      value = 0;
    }
  }
  return new Uint8Array(values.buffer, 0, values.byteLength - missing);
}

/** One head from its planes: all low parts, eight bits a plane, then all high parts. */
function unpackHead(bytes, offset, splits, steps, { columns, n }) {
  const d = splits.length / 2;
  const lowPlanes = splits.reduce((sum, split) => sum + Math.ceil(Math.max(0, split - 1) / 8), 0);
  const sides = [new Float32Array(d * n), new Float32Array(d * n)];
  const high = new Int8Array(bytes.buffer);
  const codes = new Int32Array(n);
  let low = offset;
  let next = offset + lowPlanes * n;
  let rank = 0;
  for (let c = 0; c < d; c++) {
    for (let side = 0; side < 2; side++) {
      const bits = splits[side * d + c] - 1;
      if (bits < 0) continue;
      rank = c + 1;
      for (let i = 0; i < n; i++) codes[i] = high[next + i] << bits;
      next += n;
      for (let shift = 0; shift < bits; shift += 8) {
        for (let i = 0; i < n; i++) codes[i] += bytes[low + i] << shift;
        low += n;
      }
      addNeighbours(codes, columns);
      const step = steps[side * d + c];
      for (let i = 0; i < n; i++) sides[side][c * n + i] = step * codes[i];
    }
  }
  return { q: sides[0], k: sides[1], rank, end: next };
}

/** Adds a quarter of the codes before and above, from which each code was stored. */
function addNeighbours(codes, columns) {
  for (let i = 1; i < codes.length; i++) {
    codes[i] += (codes[i - 1] + (i < columns ? 0 : codes[i - columns])) >> 2;
  }
}

/** Adds weight * softmax(Q Kᵀ) to the matrix (row by row, n * n), causal or not. */
function addHead(matrix, head, weight, n, causal) {
  const scores = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    scoresOfRow(scores, head, i, n);
    const seen = causal ? i + 1 : n;
    let largest = -Infinity;
    for (let j = 0; j < seen; j++) if (scores[j] > largest) largest = scores[j];
    let sum = 0;
    for (let j = 0; j < seen; j++) {
      scores[j] = Math.exp(scores[j] - largest);
      sum += scores[j];
    }
    const factor = weight / sum;
    const row = i * n;
    for (let j = 0; j < seen; j++) matrix[row + j] += factor * scores[j];
  }
}

/** Scores of one query against all keys, four components at a time. */
function scoresOfRow(scores, { q, k, rank }, i, n) {
  scores.fill(0);
  let c = 0;
  for (; c + 4 <= rank; c += 4) {
    const a = c * n;
    const b = a + n;
    const d = b + n;
    const e = d + n;
    const qa = q[a + i];
    const qb = q[b + i];
    const qd = q[d + i];
    const qe = q[e + i];
    for (let j = 0; j < n; j++) {
      scores[j] += qa * k[a + j] + qb * k[b + j] + qd * k[d + j] + qe * k[e + j];
    }
  }
  for (; c < rank; c++) {
    const a = c * n;
    for (let j = 0; j < n; j++) scores[j] += q[a + i] * k[a + j];
  }
}

/** v P: where the probability v goes in one bounce. */
function push(matrix, v) {
  const n = v.length;
  const out = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const mass = v[i];
    if (mass === 0) continue;
    const row = i * n;
    for (let j = 0; j < n; j++) out[j] += mass * matrix[row + j];
  }
  return out;
}

/** P f: what one bounce from each state sees of f on average. */
function pull(matrix, f) {
  const n = f.length;
  const out = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const row = i * n;
    let sum = 0;
    for (let j = 0; j < n; j++) sum += matrix[row + j] * f[j];
    out[i] = sum;
  }
  return out;
}

/**
 * A damped walk in one direction: D = damping P + (1 - damping) / n, or its transpose
 * with rows renormalised. Returns {bounce, factor}: one bounce, and the largest factor
 * by which a bounce leaves the L1 distance of two walkers (1 where there is none).
 */
function dampedWalk(matrix, n, damping, direction) {
  const jump = (1 - damping) / n;
  if (direction === "incoming") {
    const bounce = (v) => normalised(push(matrix, v).map((x) => damping * x + jump));
    return { bounce, factor: damping };
  }
  const arriving = push(matrix, new Float64Array(n).fill(1))
    .map((x) => damping * x + 1 - damping);
  const bounce = (v) => {
    const shared = v.map((x, j) => x / arriving[j]);
    const jumping = jump * sum(shared);
    return normalised(pull(matrix, shared).map((x) => damping * x + jumping));
  };
  return { bounce, factor: 1 - overlap(matrix, arriving, damping) };
}

/** Probability that the outgoing chain moves alike from every state (Doeblin). */
function overlap(matrix, arriving, damping) {
  const n = arriving.length;
  if (damping === 1) return 0;
  let total = 0;
  for (let i = 0; i < n; i++) {
    let least = Infinity;
    for (let j = 0; j < n; j++) {
      const moved = (damping * matrix[i * n + j] + (1 - damping) / n) / arriving[j];
      if (moved < least) least = moved;
    }
    total += least;
  }
  return total;
}

function sum(v) {
  let total = 0;
  for (let i = 0; i < v.length; i++) total += v[i];
  return total;
}

function normalised(v) {
  const total = sum(v);
  return v.map((x) => x / total);
}

function distance(v, w) {
  let total = 0;
  for (let i = 0; i < v.length; i++) total += Math.abs(v[i] - w[i]);
  return total;
}
