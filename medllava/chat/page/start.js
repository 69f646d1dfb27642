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
at("folder").addEventListener("click", () => at("files").click());
at("files").addEventListener("change", () => {
  const files = [...at("files").files];
  if (files.length) showFolder(files, files[0].webkitRelativePath.split("/")[0]);
  at("files").value = "";
  at("menu").open = false;
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
    if (name === "drop") showDropped(event.dataTransfer.items).catch((error) => fail(error.message));
  });
}
