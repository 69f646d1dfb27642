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
