"use strict";
const $ = id => document.getElementById(id);
const make = (tag, kind, text) => {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text; // names stay text
  return node;
};

// Theme: the system's, until the button is pressed.
$("theme").onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
};

// On paper the config is not folded away.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => part.open = true));

// Tables: sorted by a column's head; what is unknown stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const buttons = [...table.querySelectorAll("th button")];
  buttons.forEach((button, at) => button.onclick = () => {
    const up = button.dataset.order === "↓";
    for (const other of buttons) delete other.dataset.order;
    button.dataset.order = up ? "↑" : "↓";
    const key = row => row.cells[at].dataset.value ?? row.cells[at].textContent;
    const numeric = [...table.tBodies[0].rows].some(row => row.cells[at].dataset.value);
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!numeric) return up ? y.localeCompare(x) : x.localeCompare(y);
      if (x === "" || y === "") return (x === "") - (y === "");
      return up ? x - y : y - x;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  });
}

// Gallery.
const data = JSON.parse($("gallery-data").textContent);
const FIRST = 12; // images, until more are asked for
const BRIEF = 64; // letters of an answer below a small picture
let shown = [], open = -1;

function boxes(entries, kindOf, textOf, large) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  if (!large) svg.classList.add("thin");
  const tags = [];
  for (const entry of entries) {
    const [x, y, width, height] = entry.box, kind = kindOf(entry);
    const rect = document.createElementNS(svg.namespaceURI, "rect");
    for (const [name, value] of Object.entries({x, y, width, height})) rect.setAttribute(name, value);
    rect.setAttribute("class", kind);
    svg.append(rect);
    const tag = make("span", "tag " + kind, textOf(entry));
    // Above the box where there is room, else inside it; from its left edge, or on the right half up to its right one.
    if (x < 600) tag.style.left = Math.max(x, 0) / 10 + "%";
    else tag.style.right = Math.max(1000 - x - width, 0) / 10 + "%";
    tag.style.top = Math.min(Math.max(y, 0), 960) / 10 + "%";
    if (y > (large ? 50 : 140)) tag.style.transform = "translateY(-100%)";
    tags.unshift(tag); // the first, surest one comes to lie on top
  }
  return [svg, ...tags];
}

function side(image, what, entries, kindOf, textOf, large) {
  const node = make("div", "side"), picture = make("img");
  picture.src = image.src;
  picture.alt = image.file;
  [picture.width, picture.height] = image.size;
  node.append(picture);
  const drawn = boxes(entries, kindOf, textOf, large);
  node.append(...(large || entries.length <= 6 ? drawn : drawn.slice(0, 1)), make("span", "what", what));
  return node;
}

function shot(image, large) {
  const node = make(large ? "div" : "button", "shot"), pair = make("div", "pair"), said = make("div", "said");
  const detector = Object.values(image.heads).find(head => head.boxes);
  const least = +$("score").value;
  const truth = detector ? detector.boxes : [], found = detector ? detector.found.filter(box => box.score >= least) : [];
  const kinds = {correct: "correct", ignored: "unknown"};
  pair.append(side(image, detector ? "truth" : "image", truth,
    box => box.crowd ? "unknown" : box.found >= least ? "truth" : "missed",
    box => box.name + (box.crowd ? " (crowd)" : ""), large));
  if (detector) pair.append(side(image, "prediction", found, box => kinds[box.kind] ?? "wrong",
    box => `${box.name} ${box.score.toFixed(2)}` + (large && !kinds[box.kind] ? ` · ${box.kind}` : ""), large));
  else pair.style.gridTemplateColumns = "1fr";
  if (!large) said.append(make("div", "file", image.file));
  const table = make("table"), brief = text => large || text.length <= BRIEF ? text : text.slice(0, BRIEF - 1) + "…";
  const heading = table.insertRow();
  heading.append(make("th"), make("th", "", "truth"), make("th", "", "prediction"), make("th", "loss", "loss"));
  for (const [name, head] of Object.entries(image.heads)) {
    const row = table.insertRow();
    row.append(make("th", "", name), make("td", "", brief(head.truth)),
      make("td", head.kinds.length ? "wrong-answer" : "", brief(head.answer) + (large && head.kinds.length ? ` (${head.kinds.join(", ")})` : "")),
      make("td", "loss", head.loss === null ? "–" : head.loss.toFixed(2)));
  }
  said.append(table);
  node.append(pair, said);
  return node;
}

function options(select, first, names) {
  const before = select.value;
  select.replaceChildren(...[["", first], ...names.map(name => [name, name])].map(([value, text]) => {
    const option = make("option", "", text);
    option.value = value;
    return option;
  }));
  select.value = names.includes(before) ? before : "";
}

function refresh() {
  const wanted = $("head").value, heads = image => wanted ? [image.heads[wanted]] : Object.values(image.heads);
  const all = key => [...new Set(data.images.flatMap(image => heads(image).flatMap(head => head[key])))].sort();
  options($("kind"), "any or none", ["any error", "no error", ...all("kinds").filter(kind => kind !== "any error" && kind !== "no error")]);
  options($("class"), "any", all("classes"));
  const kind = $("kind").value, label = $("class").value, set = $("set").value;
  const fits = image => heads(image).some(head => (!label || head.classes.includes(label)) &&
    (!kind || kind === "no error" || (kind === "any error" ? head.kinds.length : head.kinds.includes(kind)))) &&
    (kind !== "no error" || heads(image).every(head => !head.kinds.length)) &&
    (!set || (set === "random" ? image.random : wanted ? image.worst.includes(wanted) : image.worst.length));
  // Losses of several heads have no common unit: the place among each head's own is what is compared.
  const value = (image, key) => wanted ? image.heads[wanted][key] : Math.max(-1, ...Object.keys(image.heads).map(name =>
    image.heads[name][key] === null ? -1 : places[key][name].indexOf(image.heads[name][key]) / places[key][name].length));
  const [key, order] = $("sort").value.split("-");
  const down = (key === "loss") !== !!order;
  shown = data.images.filter(fits).map(image => [value(image, key), image]);
  shown.sort(([a], [b]) => (a === null) - (b === null) || (down ? b - a : a - b));
  shown = shown.map(([, image]) => image);
  lay(FIRST);
  $("count").textContent = `${shown.length} of ${data.images.length} images here, ${data.evaluated} evaluated`;
  $("meaning").textContent = "Loss: " + data.heads.filter(head => !wanted || head.name === wanted)
    .map(head => `${head.name}, ${head.meaning}`).join("; ") + (wanted ? "." : ". Without a head chosen, images are sorted by their rank in any head.");
  $("score-value").textContent = (+$("score").value).toFixed(2);
}

function lay(number) {
  $("grid").replaceChildren(...shown.slice(0, number).map((image, at) => {
    const node = shot(image, false);
    node.type = "button";
    node.onclick = () => enlarge(at);
    return node;
  }));
  $("more").hidden = shown.length <= number;
  $("more").textContent = `show ${shown.length - number} more`;
}

function enlarge(at) {
  open = (at + shown.length) % shown.length;
  $("large").replaceChildren(shot(shown[open], true));
  $("name").textContent = `${open + 1} of ${shown.length}: ${shown[open].file}`;
  if (!$("viewer").open) $("viewer").showModal();
}

const places = {};
if (data.images.length) {
  for (const key of ["loss", "confidence"]) {
    places[key] = {};
    for (const {name} of data.heads) places[key][name] = data.images.map(image => image.heads[name][key]).filter(x => x !== null).sort((a, b) => a - b);
  }
  options($("head"), "all", data.heads.map(head => head.name));
  for (const id of ["set", "head", "kind", "class", "sort"]) $(id).onchange = refresh;
  $("score").oninput = refresh;
  if (!data.images.some(image => Object.values(image.heads).some(head => head.boxes))) {
    $("score-label").hidden = true;
    document.querySelector(".legend").hidden = true;
  }
  $("more").onclick = () => lay(shown.length);
  $("previous").onclick = () => enlarge(open - 1);
  $("next").onclick = () => enlarge(open + 1);
  $("close").onclick = () => $("viewer").close();
  document.addEventListener("keydown", event => {
    if (!$("viewer").open) return;
    if (event.key === "ArrowLeft") enlarge(open - 1);
    else if (event.key === "ArrowRight") enlarge(open + 1);
    else return;
    event.preventDefault();
  });
  $("viewer").onclick = event => { if (event.target === $("viewer")) $("viewer").close(); };
  refresh();
}
