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
