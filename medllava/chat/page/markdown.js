let level = 2;  // of the last heading; the page has one above every answer

// Words of a model as elements; every text is set as text, so nothing in it is ever markup.
// Its headings follow the page's one by one, whatever levels the model chose: no reader loses count.
function drawMarkdown(parent, text) {
  level = 2;
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
      level = Math.min(6, heading[1].length + 2, level + 1);
      drawWords(add(`h${level}`, parent), heading[2]);
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
