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
