import { fromLines, messagesOf, toLines } from "./chats.js";

const TOP = 10;
const byId = (id) => document.getElementById(id);
const talk = byId("talk"), prompt = byId("prompt"), fields = byId("fields"), chances = byId("chances");
let turns = [];
let running = null; // the AbortController of what is being answered
let known = []; // ids of the server's models

function make(tag, text = "", className = "") {
  const found = document.createElement(tag);
  found.textContent = text;
  if (className) found.className = className;
  return found;
}

function button(text, action, label = text) {
  const found = make("button", text);
  found.type = "button";
  found.setAttribute("aria-label", label);
  found.addEventListener("click", action);
  return found;
}

function note(text, bad = false) {
  byId("note").textContent = text;
  byId("note").classList.toggle("bad", bad);
}

const field = (name) => fields.elements[name].value.trim();
const chosen = () => [...document.querySelectorAll("#models input:checked")].map((box) => box.value);

function headers() {
  const found = { "Content-Type": "application/json" };
  if (field("key")) found.Authorization = `Bearer ${field("key")}`;
  return found;
}

async function findModels() {
  const response = await fetch("v1/models", { headers: headers() });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error.message);
  known = body.data.map((model) => model.id);
  const before = new Set(chosen());
  byId("models").replaceChildren(byId("models").querySelector("legend"), ...known.map((id, number) => {
    const label = make("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.value = id;
    box.checked = before.size ? before.has(id) : number === 0;
    label.append(box, id);
    return label;
  }));
}

// What is asked

function settings() {
  const found = {};
  for (const name of ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"]) {
    if (field(name) !== "") found[name] = Number(field(name));
  }
  if (fields.elements.stop.value) found.stop = fields.elements.stop.value;
  return found;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server ended the answer");
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function ask(model, messages, answer, show, signal) {
  const body = { model, messages, stream: true, logprobs: true, top_logprobs: TOP, ...settings() };
  const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) throw new Error((await response.json()).error.message);
  answer.warning = response.headers.get("x-llmlab-warning") ?? "";
  for await (const chunk of events(response)) {
    if (chunk.error) throw new Error(chunk.error.message);
    const choice = chunk.choices[0];
    if (!choice) continue;
    const text = choice.delta.content ?? "", logs = choice.logprobs?.content ?? [];
    answer.text += text;
    if (text || logs.length) answer.pieces.push({ text, logs });
    if (choice.finish_reason) answer.reason = choice.finish_reason;
    show();
  }
}

async function send(text) {
  const models = chosen();
  if (running || !text.trim()) return;
  if (!models.length) return note("choose a model first", true);
  note("");
  const turn = { prompt: text, answers: {} };
  for (const model of models) turn.answers[model] = { text: "", pieces: [], reason: "", busy: true };
  turns.push(turn);
  draw();
  running = new AbortController();
  busy(models.length);
  await Promise.all(models.map(async (model) => {
    const answer = turn.answers[model];
    const show = () => drawAnswer(turn, model);
    try {
      await ask(model, messagesOf(field("system"), turns, model), answer, show, running.signal);
    } catch (error) {
      if (error.name === "AbortError") answer.reason = "stopped";
      else answer.error = error.message;
    }
    answer.busy = false;
    show();
    if (answer.warning) note(answer.warning);
  }));
  running = null;
  busy(0);
  prompt.focus({ preventScroll: true });
}

function busy(count) {
  document.body.dataset.busy = count;
  byId("send").disabled = count > 0;
  byId("stop").disabled = count === 0;
}

function again(number, text) {
  if (running) return;
  turns = turns.slice(0, number);
  send(text);
}

// What is seen

function draw() {
  hide();
  talk.replaceChildren(...turns.map((turn, number) => {
    const part = make("section", "", "turn"), mine = make("div", turn.prompt, "mine");
    const tools = make("div", "", "tools");
    tools.append(button("Edit", () => edit(mine, tools, turn, number), `Edit message ${number + 1}`),
      button("Retry", () => again(number, turn.prompt), `Retry message ${number + 1}`));
    const answers = make("div", "", "answers");
    for (const model of Object.keys(turn.answers)) {
      const box = make("article", "", "answer"), said = make("div", "", "said");
      said.tabIndex = 0;
      said.setAttribute("aria-label", `Answer of ${model}; arrow keys show probabilities`);
      box.append(make("h2", model), said, make("p", "", "foot"));
      watch(said, turn, model);
      turn.answers[model].box = box;
      answers.append(box);
    }
    part.append(mine, tools, answers);
    return part;
  }));
  for (const turn of turns) for (const model of Object.keys(turn.answers)) drawAnswer(turn, model);
  talk.scrollTop = talk.scrollHeight;
}

function drawAnswer(turn, model) {
  const answer = turn.answers[model], [, said, foot] = answer.box.children;
  const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
  if (!answer.pieces.length) said.textContent = answer.text;
  for (let at = said.children.length; at < answer.pieces.length; at++) {
    const token = make("span", answer.pieces[at].text, "token");
    token.dataset.at = at;
    said.append(token);
  }
  said.classList.toggle("busy", Boolean(answer.busy));
  const empty = !answer.busy && !answer.text && !answer.error ? "an empty answer" : "";
  const told = { length: "cut at the maximum length", stopped: "stopped" }[answer.reason] ?? "";
  foot.textContent = answer.error ?? [empty, told].filter(Boolean).join(", ");
  foot.classList.toggle("bad", Boolean(answer.error));
  if (atEnd) talk.scrollTop = talk.scrollHeight;
}

function edit(mine, tools, turn, number) {
  if (running) return;
  const box = document.createElement("textarea");
  box.value = turn.prompt;
  box.setAttribute("aria-label", `Message ${number + 1}`);
  const done = () => again(number, box.value);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); done(); }
    if (event.key === "Escape") draw();
  });
  mine.classList.add("editing");
  mine.replaceChildren(box, button("Send anew", done), button("Cancel", draw));
  tools.hidden = true;
  box.focus();
}

// Probabilities of a token

function watch(said, turn, model) {
  const pieces = () => turn.answers[model].pieces;
  const at = (event) => event.target.closest(".token");
  const over = (event) => at(event) && show(at(event), pieces()[at(event).dataset.at]);
  said.addEventListener("pointerover", over);
  said.addEventListener("click", over);
  said.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  said.addEventListener("blur", hide);
  said.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !said.children.length) return;
    event.preventDefault();
    const now = said.querySelector(".chosen");
    const next = now ? Number(now.dataset.at) + step : step > 0 ? 0 : said.children.length - 1;
    const token = said.children[Math.max(0, Math.min(said.children.length - 1, next))];
    show(token, pieces()[token.dataset.at]);
  });
}

const percent = (log) => {
  const p = Math.exp(log);
  return p < 0.0001 ? "<0.01 %" : `${(100 * p).toFixed(p < 0.01 ? 2 : 1)} %`;
};

function row(entry, taken) {
  const line = make("tr", "", taken ? "taken" : ""), bar = document.createElement("progress");
  bar.max = 1;
  bar.value = Math.exp(entry.logprob);
  const cell = make("td");
  cell.append(bar);
  line.append(make("td", entry.token.replace(/\n/g, "\\n")), make("td", percent(entry.logprob)), cell);
  return line;
}

function show(token, piece) {
  hide();
  if (!piece?.logs.length) return;
  token.classList.add("chosen");
  const table = make("table");
  for (const log of piece.logs) {
    const ids = log.top_logprobs.map((entry) => entry.token);
    for (const entry of log.top_logprobs) table.append(row(entry, entry.token === log.token));
    if (!ids.includes(log.token)) table.append(row(log, true));
  }
  chances.replaceChildren(table);
  chances.hidden = false;
  const place = token.getBoundingClientRect(), size = chances.getBoundingClientRect();
  const left = Math.max(4, Math.min(place.left, window.innerWidth - size.width - 4));
  const above = place.top - size.height - 6;
  chances.style.left = `${left}px`;
  chances.style.top = `${above > 0 ? above : place.bottom + 6}px`;
}

function hide() {
  chances.hidden = true;
  document.querySelectorAll(".chosen").forEach((token) => token.classList.remove("chosen"));
}

// Files

function save() {
  try {
    const models = known.filter((model) => turns.some((turn) => turn.answers[model]));
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([toLines(field("system"), turns, models)], { type: "application/jsonl" }));
    link.download = "conversation.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    note("saved as conversation.jsonl");
  } catch (error) {
    note(error.message, true);
  }
}

async function load(file) {
  if (!file || running) return;
  try {
    const models = chosen().length ? chosen() : known.slice(0, 1);
    const found = fromLines(await file.text(), models);
    turns = found.turns;
    fields.elements.system.value = found.system;
    draw();
    note(found.left ? `${found.left} more conversations in this file were left out` : "");
  } catch (error) {
    note(`${file.name}: ${error.message}`, true);
  }
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value;
  if (running || !text.trim() || !chosen().length) return chosen().length || note("choose a model first", true);
  prompt.value = "";
  send(text);
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hide();
  running?.abort();
});
document.addEventListener("pointerdown", (event) => event.target.closest(".said") || hide());
talk.addEventListener("scroll", hide);
byId("stop").addEventListener("click", () => running?.abort());
byId("new").addEventListener("click", () => { running?.abort(); turns = []; draw(); note(""); prompt.focus(); });
byId("save").addEventListener("click", save);
byId("load").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => { load(event.target.files[0]); event.target.value = ""; });
fields.elements.key.addEventListener("change", () => findModels().then(() => note(""), (error) => note(error.message, true)));
fields.addEventListener("submit", (event) => event.preventDefault());
busy(0);
findModels().then(() => { document.body.dataset.ready = "1"; prompt.focus(); }, (error) => note(error.message, true));
