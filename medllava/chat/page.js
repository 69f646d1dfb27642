"use strict";
const at = (id) => document.getElementById(id);
const facts = JSON.parse(at("facts").textContent);
let key = null, opening = null, busy = false, over = false;
let turns = [];     // what was said: {role, text, pictures, element}
let shelf = [];     // pictures that go with the next question
let answering = 0;  // grows with every conversation, so that a late reply finds the page moved on

// ---- talking to the server

const call = (path, options = {}) =>
  fetch(path, { method: "POST", ...options, headers: { "x-medllava": "1", ...options.headers } })
    .catch(() => { throw new Error(
      "The server cannot be reached; it may have ended. Start it again, then ask again."); });

async function told(reply) {
  const text = await reply.text();
  try { return JSON.parse(text).error || text; } catch { /* not ours: a proxy, or a full server */ }
  return reply.status === 503 ? "The server is full. Try again in a moment."
    : `The server answered ${reply.status}. ${text.slice(0, 200)}`;
}

async function checked(reply) {
  if (reply.ok) return reply;
  if (reply.status === 404) end();
  throw new Error(await told(reply));
}

async function conversation() {
  if (key) return key;
  opening ??= call("/conversations").then(checked).then((r) => r.json())
    .finally(() => { opening = null; });
  key = (await opening).key;
  return key;
}

// ---- drawing

function add(tag, parent, text = "", name = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  parent.append(element);
  return element;
}

function button(parent, text, act, label = "") {
  const made = add("button", parent, text);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function scroll() { at("talk").scrollTop = at("talk").scrollHeight; }

function fail(text) {
  add("p", at("log"), text, "turn error").setAttribute("role", "alert");
  scroll();
}

function setBusy(value) {
  busy = value;
  at("send").hidden = value;
  at("stop").hidden = !value;
}

// The conversation is gone from the server: nothing more may be asked under its pictures.
function end() {
  if (over || (!turns.length && !shelf.length)) { key = null; return; }
  over = true;
  key = null;
  at("log").classList.add("over-now");
  at("shelf").replaceChildren();
  shelf = [];
  at("send").disabled = at("add").disabled = true;
  fail("This conversation is over and its pictures are gone from the server (it was restarted, or "
    + "nothing was asked for a long time). Start over, and add the pictures again.");
}

// Words of a model as elements; every text is set as text, so nothing in it is ever markup.
function drawMarkdown(parent, text) {
  parent.replaceChildren();
  parent.classList.remove("plain");
  const blocks = text.split(/(```[^]*?(?:```|$))/);
  for (const block of blocks) {
    if (block.startsWith("```")) {
      add("code", add("pre", parent), block.replace(/^```\w*\n?|```$/g, ""));
      continue;
    }
    for (const part of block.split(/\n{2,}/)) if (part.trim()) drawPart(parent, part.trim());
  }
}

function drawPart(parent, part) {
  let list = null, paragraph = null;
  for (const line of part.split("\n")) {
    const item = line.match(/^\s*(?:([-*+])|(\d+)[.)])\s+(.*)$/);
    const heading = line.match(/^(#{1,6})\s+(.*)$/);
    if (item) {
      const tag = item[1] ? "ul" : "ol";
      if (list?.localName !== tag) {
        list = add(tag, parent);
        if (item[2]) list.start = Number(item[2]);
      }
      drawWords(add("li", list), item[3]);
      paragraph = null;
    } else if (heading) {
      drawWords(add("h" + Math.min(6, heading[1].length + 2), parent), heading[2]);
      list = paragraph = null;
    } else {
      if (paragraph) paragraph.append(document.createElement("br"));
      paragraph ??= add("p", parent);
      drawWords(paragraph, line);
      list = null;
    }
  }
}

function drawWords(parent, text) {
  for (const word of text.split(/(\*\*[^*]+\*\*|\*[^*\s][^*]*\*|`[^`]+`)/)) {
    if (/^\*\*.+\*\*$/.test(word)) add("strong", parent, word.slice(2, -2));
    else if (/^\*.+\*$/.test(word)) add("em", parent, word.slice(1, -1));
    else if (/^`.+`$/.test(word)) add("code", parent, word.slice(1, -1));
    else parent.append(word);
  }
}

// ---- pictures

const PRESETS = { "Lung": [-600, 1500], "Bone": [300, 1500], "Soft tissue": [40, 400],
  "Brain": [40, 80] };

function show(blob, name = blob.name ?? "", view = {}) {
  if (over) return Promise.resolve();
  const figure = add("figure", at("shelf"));
  add("p", figure, "Loading ...", "wait").setAttribute("role", "status");
  const picture = { figure, view: { ...view }, name, id: null };
  shelf.push(picture);
  at("welcome").hidden = true;
  const mine = answering;
  picture.ready = upload(picture, blob).catch((error) => {
    if (mine !== answering) return;
    drop(picture);
    if (!over) fail(error.message);
  });
  return picture.ready;
}

async function upload(picture, blob) {
  const reply = await checked(await call(`/conversations/${await conversation()}/images`,
    { body: blob, headers: { "x-medllava-name": encodeURIComponent(picture.name) } }));
  const found = await reply.json();
  Object.assign(picture, { id: found.id, facts: found.facts, width: found.width,
    height: found.height, preview: found.preview });
  drawPicture(picture);
  if (Object.keys(picture.view).length) await render(picture);
  at("question").focus();
}

function drop(picture) {
  shelf = shelf.filter((other) => other !== picture);
  picture.figure.remove();
}

function drawPicture(picture) {
  const { figure } = picture;
  figure.replaceChildren();
  const stage = button(figure, "", () => { if (!picture.moved) open(picture); },
    `Open ${picture.name || "the image"}`);
  stage.className = "stage";
  picture.image = add("img", stage);
  picture.image.src = picture.preview;
  picture.image.alt = `Image, ${picture.width} by ${picture.height} pixels`;
  picture.image.draggable = false;
  const remove = button(figure, "\u00d7", () => { drop(picture); forget(picture); },
    `Remove ${picture.name || "the image"}`);
  remove.className = "remove";
  if (facts.sentTo && picture.facts.is_burned_in)
    add("p", figure, `The file says that text may stand in this picture: a name in it would go to ${
      facts.sentTo}.`, "warn").setAttribute("role", "alert");
  else if (picture.facts.has_names)
    add("p", figure, facts.sentTo
      ? `This file names a person in its tags. The tags stay here; only the picture goes to ${
        facts.sentTo}.` : "This file names a person in its tags; the model sees only the picture.",
      "warn");
  drawTools(picture);
  picture.zoom = 1; picture.x = picture.y = 0;
  stage.addEventListener("wheel", (event) => wheel(picture, event), { passive: false });
  stage.addEventListener("pointerdown", (event) => drag(picture, event));
  stage.addEventListener("keydown", (event) => press(picture, event));
}

function forget(picture) {
  const isUsed = turns.some((turn) => turn.pictures?.some((other) => other.id === picture.id));
  if (key && picture.id && !isUsed)
    call(`/conversations/${key}/images/${picture.id}`, { method: "DELETE" }).catch(() => {});
}

function open(picture) {
  const isWide = picture.figure.classList.toggle("wide");
  if (!isWide) { picture.zoom = 1; picture.x = picture.y = 0; place(picture); }
  if (isWide) render(picture);
}

function drawTools(picture) {
  const tools = add("div", picture.figure, "", "tools");
  const { planes, num_frames: frames, is_measured: measured, is_ct: ct } = picture.facts;
  const names = Object.keys(planes);
  if (names.length) {
    const plane = add("select", add("label", tools, "Plane "));
    for (const name of names) add("option", plane, name);
    plane.addEventListener("change", () => {
      picture.view.plane = plane.value;
      delete picture.view.slice;
      picture.slice.max = planes[plane.value] - 1;
      picture.slice.value = Math.floor(planes[plane.value] / 2);
      render(picture);
    });
    picture.slice = slider(tools, "Slice", planes[names[0]],
      Math.floor(planes[names[0]] / 2), (value) => { picture.view.slice = value; render(picture); });
  }
  if (frames > 1) {
    const first = picture.facts.kind === "dicom" ? Math.floor(frames / 2) : 0;
    picture.frame = slider(tools, "Frame", frames, first,
      (value) => { picture.view.frame = value; render(picture); });
  }
  if (measured) {
    const preset = add("select", add("label", tools, "Window "));
    for (const name of ["As the file says", ...(ct ? Object.keys(PRESETS) : []), "By dragging"])
      add("option", preset, name);
    preset.addEventListener("change", () => {
      if (PRESETS[preset.value]) picture.view.window = [...PRESETS[preset.value]];
      else if (preset.value !== "By dragging") delete picture.view.window;
      else picture.view.window = [...(picture.view.window ?? picture.facts.window ?? [128, 256])];
      render(picture);
    });
    picture.preset = preset;
  }
  picture.label = add("span", tools, "", "note");
  picture.label.setAttribute("role", "status");
}

function slider(parent, text, count, value, act) {
  const range = add("input", add("label", parent, `${text} `));
  Object.assign(range, { type: "range", min: 0, max: count - 1, value });
  range.addEventListener("input", () => act(Number(range.value)));
  return range;
}

const byDrag = (picture) => picture.preset?.value === "By dragging";

function step(range, by) {
  if (!range) return false;
  range.value = Number(range.value) + by;
  range.dispatchEvent(new Event("input"));
  return true;
}

function wheel(picture, event) {
  if (!picture.figure.classList.contains("wide")) return;
  event.preventDefault();
  const by = event.deltaY > 0 ? 1 : -1;
  if (event.ctrlKey || !step(picture.slice ?? picture.frame, by)) zoom(picture, by < 0 ? 1.15 : 1 / 1.15);
}

function press(picture, event) {
  if (!picture.figure.classList.contains("wide")) return;
  const acts = {
    ArrowUp: () => step(picture.slice ?? picture.frame, 1),
    ArrowDown: () => step(picture.slice ?? picture.frame, -1),
    ArrowRight: () => step(picture.frame ?? picture.slice, 1),
    ArrowLeft: () => step(picture.frame ?? picture.slice, -1),
    "+": () => zoom(picture, 1.25), "-": () => zoom(picture, 0.8), "0": () => zoom(picture, 0),
  };
  if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
}

function zoom(picture, by) {
  picture.zoom = by ? Math.min(16, Math.max(1, picture.zoom * by)) : 1;
  if (picture.zoom === 1) picture.x = picture.y = 0;
  place(picture);
}

function place(picture) {
  picture.image.style.transform =
    `translate(${picture.x}px, ${picture.y}px) scale(${picture.zoom})`;
}

function drag(picture, event) {
  picture.moved = false;
  if (!picture.figure.classList.contains("wide")) return;
  const stage = event.currentTarget, start = [event.clientX, event.clientY];
  const from = [picture.x, picture.y], window = [...(picture.view.window ?? [0, 0])];
  const gain = Math.max(0.25, window[1] / 256);
  stage.setPointerCapture(event.pointerId);
  const move = (next) => {
    const dx = next.clientX - start[0], dy = next.clientY - start[1];
    if (Math.abs(dx) + Math.abs(dy) > 3) picture.moved = true;
    if (byDrag(picture)) {
      picture.view.window = [window[0] + dy * gain, Math.max(1, window[1] + dx * gain)];
      render(picture);
    } else { picture.x = from[0] + dx; picture.y = from[1] + dy; place(picture); }
  };
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", () => stage.removeEventListener("pointermove", move),
    { once: true });
}

// The picture on the screen is the one the server would show the model, drawn by the same code.
async function render(picture) {
  picture.isStale = true;
  picture.label.textContent = words(picture.view);
  if (picture.isDrawing || !picture.id) return;
  picture.isDrawing = true;
  try {
    while (picture.isStale) {
      picture.isStale = false;
      const reply = await checked(await call(`/conversations/${key}/images/${picture.id}/view`,
        { body: JSON.stringify(picture.view) }));
      const address = URL.createObjectURL(await reply.blob());
      if (picture.address) URL.revokeObjectURL(picture.address);
      picture.address = picture.image.src = picture.preview = address;
    }
  } catch (error) { if (!over) picture.label.textContent = error.message; }
  picture.isDrawing = false;
}

function words(view) {
  const said = [];
  if (view.plane) said.push(view.plane);
  if (view.slice !== undefined) said.push(`slice ${view.slice}`);
  if (view.frame !== undefined) said.push(`frame ${view.frame}`);
  if (view.window) said.push(`window ${view.window.map((n) => Math.round(n)).join(" / ")}`);
  return said.join(", ");
}

// ---- asking

function settings() {
  const names = ["temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "seed"];
  const given = names.filter((name) => at(name).value !== "");
  return { system: at("system").value,
    sampling: given.length
      ? Object.fromEntries(given.map((name) => [name, Number(at(name).value)])) : null };
}

async function ask(text, pictures = null, keep = turns.length) {
  setBusy(true);
  const mine = answering;
  at("welcome").hidden = true;
  const sent = pictures ?? shelf;
  const waiting = add("p", at("log"), "", "note");
  if (!pictures && sent.some((picture) => !picture.id)) {
    waiting.textContent = "Waiting for the upload ...";
    scroll();
    await Promise.all(sent.map((picture) => picture.ready));
  }
  waiting.remove();
  if (mine !== answering) return;
  if (over) { giveBack(text); return; }
  const shown = sent.filter((picture) => picture.id && (pictures || shelf.includes(picture)));
  if (!pictures && shown.length < sent.length) { giveBack(text); return; }
  if (!pictures) { shelf = shelf.filter((picture) => !shown.includes(picture)); }
  const images = shown.map(({ id, view }) => ({ id, view: { ...view } }));
  const cut = turns.slice(keep);
  const question = drawQuestion(text, shown);
  const answer = drawAnswer();
  for (const turn of cut) turn.element.hidden = true;
  scroll();
  try {
    const reply = await checked(await call(`/conversations/${await conversation()}/turns`,
      { body: JSON.stringify({ text, images, keep, ...settings() }) }));
    const done = await read(reply.body, answer);
    if (mine !== answering) return;
    finish(answer, done);
    if (!answer.text && done.finish_reason === "interrupted") throw new Error("Stopped.");
    for (const turn of cut) turn.element.remove();
    turns = [...turns.slice(0, keep), question, answer];
  } catch (error) {
    if (mine !== answering) return;
    question.element.remove();
    answer.element.remove();
    for (const turn of cut) turn.element.hidden = false;
    if (!pictures && !over) for (const picture of shown) {
      shelf.push(picture);
      at("shelf").append(picture.figure);
    }
    if (!over) fail(error.message);
    giveBack(text);
    return;
  }
  setBusy(false);
  at("question").focus();
}

// What was typed is never lost, whatever went wrong.
function giveBack(text) {
  setBusy(false);
  if (!at("question").value) at("question").value = text;
  at("question").focus();
}

function drawQuestion(text, pictures) {
  const element = add("div", at("log"), "", "turn user");
  const kept = pictures.map((picture) => ({ ...picture, view: { ...picture.view } }));
  for (const picture of pictures) picture.figure?.remove();
  const turn = { role: "user", text, pictures: kept, element };
  for (const picture of kept) {
    const image = add("img", element);
    image.src = picture.preview;
    image.alt = `Image, ${picture.width ?? "?"} by ${picture.height ?? "?"} pixels`;
    const seen = words(picture.view);
    if (seen) add("div", element, seen, "note");
  }
  add("div", element, text, "text");
  const more = actions(element);
  button(more, "Copy", () => copy(text));
  if (kept.every((picture) => picture.id)) {
    button(more, "Edit", () => {
      if (busy || over) return;
      at("question").value = text;
      at("question").focus();
      editing = turn;
    });
    button(more, "Delete from here", () => {
      const place = turns.indexOf(turn);
      if (busy || place < 0) return;
      for (const later of turns.slice(place)) later.element.remove();
      turns = turns.slice(0, place);
    });
  }
  return turn;
}
let editing = null;

function drawAnswer() {
  const element = add("div", at("log"), "", "turn assistant");
  add("div", element, "Answer", "who");
  const words = add("div", element, "", "text plain");
  const note = add("div", element, "Thinking ...", "note");
  return { role: "assistant", text: "", element, words, note };
}

function actions(element) {
  const more = add("details", element, "", "more");
  add("summary", more, "More");
  return add("div", more);
}

function copy(text) { navigator.clipboard?.writeText(text).catch(() => {}); }

async function read(body, answer) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", done = null;
  for (;;) {
    const part = await reader.read().catch(() => ({ done: true, isBroken: true }));
    if (part.done) break;
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) done = take(JSON.parse(line), answer) ?? done;
  }
  if (!done) throw new Error("The connection broke before the answer was whole. Ask again.");
  return done;
}

function take(event, answer) {
  if (event.error) throw new Error(event.error);
  if (event.waiting) answer.note.textContent = event.waiting === 1
    ? "One question is before yours ..." : `${event.waiting} questions are before yours ...`;
  if (event.piece) {
    answer.note.textContent = "";
    answer.text += event.piece;
    answer.words.textContent = answer.text;
  }
  const talk = at("talk");
  if (talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120) scroll();
  return event.done;
}

function finish(answer, done) {
  drawMarkdown(answer.words, answer.text);
  const ends = { interrupted: "Stopped.", length: "Cut at the longest answer." };
  const said = [ends[done.finish_reason] ?? ""];
  const choices = Object.entries(done.choices ?? {});
  if (choices.length) said.push("The model began with "
    + choices.map(([name, p]) => `${name}: ${(100 * p).toFixed(1)} %`).join(", ")
    + " (its own probability, not how likely that is true).");
  if (!answer.text) said.push("(no words)");
  answer.note.textContent = said.filter(Boolean).join(" ");
  const more = actions(answer.element);
  button(more, "Copy", () => copy(answer.text));
  if (!facts.sentTo) button(more, "Where does it look?", () => look(answer));
  button(more, "Try again", () => {
    const place = turns.indexOf(answer);
    if (busy || over || place < 1) return;
    const question = turns[place - 1];
    ask(question.text, question.pictures, place - 1);
  });
}

async function look(answer) {
  const question = turns[turns.length - 2];
  if (busy || over) return;
  if (turns.at(-1) !== answer || !question.pictures.length) {
    answer.note.textContent = "This is for the last answer, where its question shows a picture.";
    return;
  }
  answer.note.textContent = "Covering parts of the picture, one by one ...";
  const images = question.pictures.map(({ id, view }) => ({ id, view }));
  try {
    const reply = await checked(await call(`/conversations/${key}/look`,
      { body: JSON.stringify({ text: question.text, images }) }));
    const found = await reply.json();
    answer.element.querySelector(".overlay")?.remove();
    const image = add("img", answer.element, "", "overlay");
    image.src = found.image;
    image.alt = "The picture with the parts tinted that the answer depends on";
    answer.note.textContent = found.caption;
  } catch (error) { if (!over) answer.note.textContent = error.message; }
}

function stop() { if (busy && key) call(`/conversations/${key}/stop`).catch(() => {}); }

function leave(options = {}) {
  if (key) call(`/conversations/${key}`, { method: "DELETE", ...options }).catch(() => {});
  key = null;
}

function startOver() {
  stop();
  leave();
  answering += 1;
  turns = []; shelf = []; over = false; editing = null;
  at("log").replaceChildren();
  at("log").classList.remove("over-now");
  at("shelf").replaceChildren();
  at("send").disabled = at("add").disabled = false;
  at("welcome").hidden = false;
  setBusy(false);
  at("question").focus();
}

// ---- conversations as files

function dataAddress(blob) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.readAsDataURL(blob);
  });
}

async function transcript() {
  const said = [];
  for (const turn of turns) {
    const images = [];
    for (const picture of turn.pictures ?? []) {
      let png = picture.png;
      if (!png) {
        const reply = await checked(await call(
          `/conversations/${key}/images/${picture.id}/view`,
          { body: JSON.stringify(picture.view) }));
        png = await dataAddress(await reply.blob());
      }
      images.push({ name: picture.name, view: picture.view, png });
    }
    said.push({ role: turn.role, content: turn.text, ...(images.length ? { images } : {}) });
  }
  return { model: facts.model, turns: said };
}

async function save() {
  try {
    const text = JSON.stringify(await transcript(), null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "conversation.json";
    link.click();
  } catch (error) { if (!over) fail(error.message); }
}

async function load(file) {
  startOver();
  try {
    const reply = await checked(await call(`/conversations/${await conversation()}/transcript`,
      { body: file }));
    const found = (await reply.json()).turns;
    at("welcome").hidden = true;
    for (const { role, content, images } of found) {
      if (role === "user") {
        const pictures = images.map(({ name, preview }) =>
          ({ id: null, name, preview, png: preview, view: {} }));
        turns.push(drawQuestion(content, pictures));
      } else {
        const answer = drawAnswer();
        answer.text = content;
        answer.note.textContent = "";
        drawMarkdown(answer.words, content);
        turns.push(answer);
      }
    }
    scroll();
  } catch (error) { fail(error.message); }
}

// ---- the page

at("model").textContent = facts.model;
at("notice").textContent = facts.notice;
at("question").value = facts.question;
at("keeping").textContent = facts.sentTo
  ? `Images go to ${facts.sentTo} with every question; this page writes nothing to disk.`
  : "Images stay in memory until the conversation ends; nothing is written to disk.";
for (const example of facts.examples) {
  const choice = button(at("examples"), "", async () => {
    const picture = await fetch(image.src);
    await show(await picture.blob(), example.name);
    at("question").value = example.question;
  });
  const image = add("img", choice);
  image.src = `/examples/${example.name}.png`;
  image.alt = "";
  add("span", choice, example.question);
}
for (const [number, name] of facts.given.entries())
  fetch(`/given/${number}`).then((r) => r.blob()).then((blob) => show(blob, name, facts.view));
at("add").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  for (const file of at("file").files) show(file);
  at("file").value = "";
});
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("question").value.trim();
  if (!text || busy || over) return;
  at("question").value = "";
  const place = editing ? turns.indexOf(editing) : -1;
  const again = editing;
  editing = null;
  if (place >= 0) ask(text, again.pictures, place);
  else ask(text);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
at("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
at("new").addEventListener("click", startOver);
at("save").addEventListener("click", save);
at("load").addEventListener("click", () => at("saved").click());
at("saved").addEventListener("change", () => {
  if (at("saved").files[0]) load(at("saved").files[0]);
  at("saved").value = "";
  at("menu").open = false;
});
window.addEventListener("pagehide", () => leave({ keepalive: true }));
document.addEventListener("paste", (event) => {
  for (const file of event.clipboardData?.files ?? []) show(file);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", name === "dragover");
    if (name === "drop") for (const file of event.dataTransfer.files) show(file);
  });
}
