// ---- pictures

const PRESETS = { "Lung": [-600, 1500], "Bone": [300, 1500], "Soft tissue": [40, 400],
  "Brain": [40, 80] };

// The files of a folder are one picture, a DICOM series, whose slices are its frames.
function showFolder(files, name) {
  const sizes = JSON.stringify(files.map((file) => file.size));
  return show(new Blob([`${sizes}\n`, ...files]), name, {}, true);
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader(), found = [];
  for (;;) {  // a reader gives a hundred at a time
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return found;
    for (const inner of some) found.push(...await filesIn(inner));
  }
}

async function showDropped(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  for (const entry of entries) {
    const files = await filesIn(entry);
    if (entry.isDirectory) showFolder(files, entry.name);
    else show(files[0]);
  }
}

function show(blob, name = blob.name ?? "", view = {}, isFolder = false) {
  if (over) return Promise.resolve();
  const figure = add("figure", at("shelf"));
  add("p", figure, "Loading ...", "wait").setAttribute("role", "status");
  const picture = { figure, view: { ...view }, name, id: null };
  shelf.push(picture);
  at("welcome").hidden = true;
  const mine = answering;
  picture.ready = upload(picture, blob, isFolder).catch((error) => {
    if (mine !== answering) return;
    drop(picture);
    if (!over) fail(error.message);
  });
  return picture.ready;
}

async function upload(picture, blob, isFolder) {
  const reply = await checked(await call(`/conversations/${await conversation()}/images`,
    { body: blob, headers: { "x-medllava-name": encodeURIComponent(picture.name),
      ...(isFolder ? { "x-medllava-folder": "1" } : {}) } }));
  const found = await reply.json();
  Object.assign(picture, { id: found.id, facts: found.facts, warnings: found.warnings,
    width: found.width, height: found.height, preview: found.preview });
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
  for (const { text, isUrgent } of picture.warnings) {
    const warning = add("p", figure, text, "warn");
    if (isUrgent) warning.setAttribute("role", "alert");
  }
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
