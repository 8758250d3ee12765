"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const make = (tag, text, parent) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
};
const token = (text, parent) => make("bdi", text, parent);
const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const chance = (nats) => {
  if (nats === null) return "no number";
  const p = Math.exp(-nats);
  if (p > 0.999) return "p > 0.999";
  // The nats have three digits, so a large p is known to three, too.
  return p < 0.001 ? `p = ${p.toExponential(1)}` : `p = ${p.toFixed(p < 0.1 ? 4 : 3)}`;
};
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const size = data.tokens.length;
let place = Math.max(0, size - 2);
let chosen = 0;
let maps = null;

function shade(amount, colour = "--mark") {
  return `color-mix(in srgb, var(${colour}) ${Math.round(Math.min(1, Math.max(0, amount)) * 70)}%, transparent)`;
}

async function unpack({ bits, count, data: text }) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const levels = 2 ** bits - 1, each = (size * (size + 1)) / 2;
  return Array.from({ length: count }, (_, n) => raw.subarray(n * each, (n + 1) * each))
    .map((rows) => (i, j) => (j > i ? 0 : (rows[(i * (i + 1)) / 2 + j] / levels) ** 2));
}

const heads = data.heads.map((row, at) => ({ ...row, at })).filter((row) => row.head !== null);
heads.forEach((row, n) => { row.map = n; });
const ranked = [...heads].sort((a, b) => (b.zero ?? 0) - (a.zero ?? 0));

function drawText() {
  const box = el("text");
  box.replaceChildren();
  data.tokens.forEach((text, at) => {
    const span = make("span", text === "" ? "∅" : text, box);
    span.setAttribute("role", "option");
    span.style.background = at ? shade(data.surprise[at - 1] / 8, "--warm") : "";
    span.title = at ? `${number(data.surprise[at - 1])} nats` : "the first token isn't predicted";
    span.addEventListener("click", () => choose(at));
  });
}

function choose(at) {
  place = Math.min(size - 1, Math.max(0, at));
  const spans = [...el("text").children];
  spans.forEach((span, n) => {
    span.setAttribute("aria-selected", n === place);
    const seen = maps && n <= place ? maps[ranked[chosen]?.map]?.(place, n) ?? 0 : 0;
    span.style.borderBottomColor = seen > 0.05 ? shade(seen + 0.3) : "transparent";
  });
  const line = el("place");
  line.replaceChildren();
  const last = place === size - 1;
  line.append("After ");
  token(data.tokens[place], make("b", null, line));
  line.append(last ? " the text ends; the most probable next token is " : " comes ");
  token(data.targets[place], make("b", null, line));
  line.append(last ? "." : `, which costs ${number(data.surprise[place])} nats (${chance(data.surprise[place])}).`);
  fill("top", ["token", "p"], data.top[place].map(([text, p]) => [text, p !== null && p < 0.001 ? p.toExponential(1) : number(p, 4)]));
  fill("near", ["token", "cosine"], (Object.hasOwn(data.neighbours, data.tokens[place]) ? data.neighbours[data.tokens[place]] : []).map(([text, c]) => [text, number(c)]));
  drawLens();
  drawParts();
  drawSources();
}

function fill(id, head, rows) {
  const table = el(id), caption = table.caption;
  table.replaceChildren();
  if (caption) table.append(caption);
  const top = make("tr", null, make("thead", null, table));
  head.forEach((text) => make("th", text, top));
  const body = make("tbody", null, table);
  rows.forEach((row) => {
    const line = make("tr", null, body);
    row.forEach((cell) => token(cell, make("td", null, line)));
  });
}

function drawLens() {
  const table = el("lens"), room = Math.floor((table.parentNode.clientWidth - 420) / 85);
  const count = Math.min(9, Math.max(3, room)), half = Math.floor(count / 2); // so that the sums beside them are seen
  const from = Math.max(0, Math.min(place - half, size - count)), to = Math.min(size, from + count);
  table.replaceChildren();
  const top = make("tr", null, make("thead", null, table));
  make("th", "after", top);
  for (let n = from; n < to; n++) token(data.tokens[n], make("th", null, top)).parentNode.style.textAlign = "center";
  ["nats here", "KL to the end", "norm"].forEach((text) => make("th", text, top));
  const body = make("tbody", null, table);
  data.lens.paths.forEach((path, row) => {
    const line = make("tr", null, body);
    make("td", path, line);
    for (let n = from; n < to; n++) {
      const cell = make("td", null, line);
      token(data.lens.top[row][n], cell);
      cell.style.background = shade(Math.exp(-(data.lens.loss[row][n] ?? 99)));
      cell.title = `${number(data.lens.loss[row][n])} nats`;
      if (n === place) cell.className = "here";
      cell.addEventListener("click", () => choose(n));
    }
    for (const key of ["loss", "kl", "norm"]) make("td", number(data.lens[key][row][place]), line);
  });
}

function paint(canvas, map, byRow) {
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d"), image = context.createImageData(size, size);
  const back = rgb("--back"), ink = rgb("--mark");
  for (let i = 0; i < size; i++) {
    let most = 1;
    if (byRow) { most = 1e-9; for (let j = 0; j <= i; j++) most = Math.max(most, map(i, j)); }
    for (let j = 0; j < size; j++) {
      const amount = Math.sqrt(map(i, j) / most), at = 4 * (i * size + j);
      for (let k = 0; k < 3; k++) image.data[at + k] = back[k] + (ink[k] - back[k]) * amount;
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

function rgb(name) {
  const text = css(name).slice(1);
  return [0, 2, 4].map((at) => parseInt(text.slice(at, at + 2), 16));
}

function drawHeads() {
  const box = el("heads"), byRow = el("byrow").checked;
  box.replaceChildren();
  ranked.forEach((row, n) => {
    const button = make("button", null, box);
    button.type = "button";
    button.setAttribute("aria-pressed", n === chosen);
    const canvas = make("canvas", null, button);
    canvas.setAttribute("aria-hidden", "true");
    paint(canvas, maps[row.map], byRow);
    make("span", `${row.path.replace("blocks.", "")} · ${row.head}`, button);
    button.addEventListener("click", () => { chosen = n; drawHeads(); choose(place); });
  });
  if (!ranked.length) { make("p", "There is no attention in this model.", box); return; }
  const row = ranked[chosen];
  paint(el("large"), maps[row.map], byRow);
  el("large").setAttribute("aria-label", `Attention of ${row.path}, head ${row.head}`);
  el("head").textContent = `${row.path}, head ${row.head}` + (row.zero === undefined ? ""
    : `: without it the loss ${row.zero < 0 ? "falls" : "rises"} by ${number(row.zero === null ? null : Math.abs(row.zero), 4)}${row.zero_error === null ? "" : ` ± ${number(row.zero_error, 4)}`} nats`);
}

function drawSources() {
  if (!maps || !ranked.length) return;
  const map = maps[ranked[chosen].map], rows = [];
  for (let n = 0; n <= place; n++) rows.push([`${n}`, data.tokens[n], map(place, n)]);
  rows.sort((a, b) => b[2] - a[2]);
  fill("sources", ["place", "token", "attention"], rows.slice(0, 8).map(([n, text, p]) => [n, text, number(p)]));
}

function drawParts() {
  const box = el("parts");
  box.replaceChildren();
  const without = new Map(data.without.names.map((name, n) => [name, data.without.share[n][place]]));
  const rows = data.parts.names.map((name, n) => [name, data.parts.share[n][place], without.get(name)]);
  const values = rows.flatMap(([, a, b]) => [a ?? 0, b ?? 0]);
  const low = Math.min(0, ...values), most = Math.max(1e-9, Math.max(0, ...values) - low);
  rows.sort((a, b) => Math.abs(b[1] ?? 0) - Math.abs(a[1] ?? 0));
  for (const [name, share, lost] of rows) {
    make("span", name, box).className = "name";
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `${(100 * low) / most - 1} 0 102 20`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name} adds ${number(share)}, without it ${number(lost)} nats`);
    [[share, 2, "--mark"], [lost, 11, "--warm"]].forEach(([value, y, colour]) => {
      const bar = document.createElementNS(svg.namespaceURI, "rect"), wide = (100 * (value ?? 0)) / most;
      bar.setAttribute("x", Math.min(0, wide)); bar.setAttribute("y", y);
      bar.setAttribute("width", Math.abs(wide)); bar.setAttribute("height", 7);
      bar.style.fill = `var(${colour})`;
      svg.append(bar);
    });
    const axis = document.createElementNS(svg.namespaceURI, "rect");
    axis.setAttribute("x", -0.25); axis.setAttribute("width", 0.5); axis.setAttribute("height", 20); axis.style.fill = "var(--pale)";
    svg.append(axis);
    box.append(svg);
    make("span", `${number(share, 2)} | ${number(lost, 2)}`, box).className = "sum";
  }
}

function sortable(id, head, rows) {
  fill(id, head, rows.map((row) => row.map((cell) => (typeof cell === "number" ? number(cell, Number.isInteger(cell) ? 0 : 3) : cell ?? "–"))));
  const table = el(id), body = table.tBodies[0], lines = [...body.rows].map((line, n) => [line, rows[n]]);
  [...table.tHead.rows[0].cells].forEach((cell, at) => {
    const text = cell.textContent, button = make("button", text);
    button.type = "button";
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = cell.getAttribute("aria-sort") === "descending";
      [...cell.parentNode.cells].forEach((each) => each.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row[at] ?? -Infinity;
      lines.sort(([, a], [, b]) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (up ? 1 : -1));
      body.append(...lines.map(([line]) => line));
    });
  });
}

function drawTables() {
  const columns = ["zero", "zero_error", "mean", "mean_error", "previous", "duplicate", "induction", "first", "entropy"];
  const names = ["zeros", "±", "its mean", "±", "previous", "duplicate", "induction", "first token", "entropy"];
  const used = columns.filter((key) => data.heads.some((row) => row[key] !== undefined));
  sortable("table", ["part", ...used.map((key) => names[columns.indexOf(key)])], data.heads.map((row) => [row.name, ...used.map((key) => row[key] ?? null)]));
  sortable("shape", ["layer", "type", "parameters", "norm"], data.shape);
  el("about-units").hidden = !data.units.length;
  el("measured").textContent = data.measured ? `: not on the text above, but on ${data.measured}` : "";
  if (data.units.length) sortable("units", ["feed-forward", "units", "dead", "quiet"], data.units);
  for (const [path, rows] of Object.entries(data.routing)) {
    make("p", `${path}: which expert each token goes to, and its weight.`, el("routing")).className = "note";
    const table = make("table", null, make("div", null, el("routing")));
    table.parentNode.className = "scroll";
    table.id = `routing-${path}`;
    fill(table.id, ["token", ...rows[0].map((_, n) => `expert ${n}`)], rows.map((row, n) => [data.tokens[n], ...row.map((w) => (w ? number(w, 2) : ""))]));
  }
  if (data.against) {
    el("patching").hidden = false;
    const { tokens, paths, effect } = data.against;
    fill("patch", ["after", ...tokens], paths.map((path, n) => [path, ...effect[n].map((value) => number(value, 2))]));
    [...el("patch").tBodies[0].rows].forEach((line, n) => [...line.cells].slice(1).forEach((cell, m) => { cell.style.background = shade(effect[n][m] ?? 0); }));
  }
}

function heat(id, first, head, names, rows) {
  const box = make("div", null, el("history")), table = make("table", null, box);
  box.className = "scroll";
  table.id = id;
  make("caption", first, table);
  fill(id, head, rows.map((row, n) => [names[n], ...row.map((value) => number(value))]));
  const most = head.slice(1).map((_, n) => Math.max(1e-9, ...rows.map((row) => row[n] ?? 0)));
  [...table.tBodies[0].rows].forEach((line, n) => [...line.cells].slice(1).forEach((cell, m) => {
    cell.style.background = shade((rows[n][m] ?? 0) / most[m]);
  }));
}

function drawHistory() {
  if (!data.history) return;
  el("past").hidden = false;
  const { steps, loss, layers, tables } = data.history, names = steps.map((step) => `step ${step}`);
  heat("past-loss", "nats per token of this text", ["", "loss"], names, loss.map((value) => [value]));
  tables.forEach(({ title, columns, rows }, n) => heat(`past-${n}`, title, ["", ...columns], names, rows));
  heat("past-cka", "similarity of the layers to each other, in the last state (linear CKA)", ["", ...layers.paths], layers.paths, layers.cka);
}

function point(event) {
  if (!maps || !ranked.length) return;
  const box = el("large").getBoundingClientRect();
  const at = (value, start, length) => Math.min(size - 1, Math.max(0, Math.floor(((value - start) / length) * size)));
  const i = at(event.clientY, box.top, box.height), j = at(event.clientX, box.left, box.width);
  const line = el("pointed");
  line.replaceChildren();
  token(data.tokens[i], make("b", null, line));
  line.append(` (${i}) looks at `);
  token(data.tokens[j], make("b", null, line));
  line.append(` (${j}): ${j > i ? "it comes later" : number(maps[ranked[chosen].map](i, j))}`);
}

el("checkpoint").textContent = `${data.checkpoint}; ${size} tokens, ${number(data.loss)} nats each`;
const nothing = ["Nothing unusual was found, and no head has a clear pattern."];
(data.findings.length ? data.findings : nothing).forEach((text) => make("p", text, el("findings")));
window.addEventListener("resize", drawLens);
data.notes.forEach((text) => make("li", text, el("notes")));
el("byrow").addEventListener("change", drawHeads);
el("large").addEventListener("pointermove", point);
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, button")) return;
  if (event.key === "ArrowLeft") choose(place - 1);
  else if (event.key === "ArrowRight") choose(place + 1);
  else return;
  event.preventDefault();
});
drawText();
drawTables();
drawHistory();
choose(place);
unpack(data.maps).then((found) => {
  maps = found;
  drawHeads();
  choose(place);
  document.body.dataset.drawn = "true";
});
// What CSS colours follows by itself; the maps are pictures.
function repaint() { if (maps) drawHeads(); }
function onPaper(yes) { document.documentElement.classList.toggle("paper", yes); repaint(); }
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
window.addEventListener("beforeprint", () => onPaper(true));
window.addEventListener("afterprint", () => onPaper(false));
