"""The gallery's template: jinja2 escapes all names, and the script reads them from attributes only."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0;
  --card: #f6f8fa; --accent: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e6eaee; --soft: #9aa4ae; --line: #39424c; --card: #1c2229;
    --accent: #58a6ff; }
}
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 100rem; padding: 1rem; }
h1 { font-size: 1.4rem; margin: .5rem 0; overflow-wrap: anywhere; }
form { background: var(--paper); border-bottom: 1px solid var(--line); display: flex; flex-wrap: wrap;
  gap: .5rem 1rem; padding: .6rem 0; position: sticky; top: 0; z-index: 1; }
label { color: var(--soft); display: flex; flex: 0 1 auto; font-size: .9rem; gap: .4rem; min-width: 0;
  align-items: center; }
select, input { background: var(--card); border: 1px solid var(--line); border-radius: 6px; color: inherit;
  font: inherit; max-width: 14rem; min-width: 0; padding: .2rem .4rem; }
#count { color: var(--soft); margin: .6rem 0; }
#cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 0;
  overflow: hidden; }
figure[hidden] { display: none; }
figure button { background: none; border: 0; cursor: zoom-in; display: block; padding: 0; width: 100%; }
figure img { aspect-ratio: 4 / 3; background: #0002; display: block; height: auto; object-fit: contain;
  width: 100%; }
button:focus-visible { outline: 3px solid var(--accent); outline-offset: -3px; }
figcaption { font-size: .85rem; padding: .5rem .7rem; }
figcaption p { margin: 0; overflow-wrap: anywhere; }
.file { color: var(--soft); }
dialog { background: var(--paper); border: 0; border-radius: 8px; color: inherit; max-height: 96vh;
  max-width: 96vw; padding: .7rem; }
dialog::backdrop { background: #000c; }
dialog img { display: block; margin: auto; max-height: 75vh; max-width: 100%; object-fit: contain;
  width: min(75rem, 92vw); }
dialog .bar { align-items: center; display: flex; gap: .5rem; justify-content: flex-end;
  margin-bottom: .5rem; }
dialog .bar button { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  color: inherit; cursor: pointer; font: inherit; padding: .1rem .8rem; }
@media print { form, dialog { display: none; } figure { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<form>
{% for head, names in filters.items() %}
<label>{{ head }} <select data-head="{{ head }}">
<option value="">all</option>
{% for name, count in names.most_common() %}
<option value="{{ name }}">{{ name }} ({{ count }})</option>
{% endfor %}
</select></label>
{% endfor %}
<label>file <input type="search" id="file" placeholder="part of the name"></label>
</form>
<p id="count" role="status"></p>
<main id="cards">
{% for card in cards %}
<figure data-tags="{{ card.tags | tojson | forceescape }}" data-file="{{ card.file }}">
<button type="button" aria-label="enlarge {{ card.file }}"><img loading="lazy" alt="{{ card.file }}"
 width="{{ card.width }}" height="{{ card.height }}" src="{{ card.source }}"></button>
<figcaption>
{% if card.objects %}<p>{{ card.objects }}</p>{% endif %}
{% for line in card.lines %}<p>{{ line }}</p>{% endfor %}
<p class="file">{{ card.file }}</p>
</figcaption>
</figure>
{% endfor %}
</main>
<dialog aria-label="enlarged image"><div class="bar">
<button type="button" id="before" aria-label="before">←</button>
<button type="button" id="after" aria-label="after">→</button>
<button type="button" id="close">close</button></div><img alt=""><div id="words"></div></dialog>
<script>
"use strict";
const total = {{ total }};
const figures = [...document.querySelectorAll("figure")];
const tags = new Map(figures.map(figure => [figure, JSON.parse(figure.dataset.tags)]));
const selects = [...document.querySelectorAll("select")];
const dialog = document.querySelector("dialog");
const search = document.getElementById("file");
let shown = figures, current = 0;

function filter() {
  const wanted = selects.filter(select => select.value).map(select => [select.dataset.head, select.value]);
  const part = search.value.toLowerCase();
  shown = figures.filter(figure => figure.dataset.file.toLowerCase().includes(part) && wanted.every(
    ([head, name]) => tags.get(figure).some(tag => tag[0] === head && tag[1] === name)));
  figures.forEach(figure => { figure.hidden = !shown.includes(figure); });
  document.getElementById("count").textContent = `${shown.length} of ${figures.length} images` +
    (total > figures.length ? `, which are spread evenly over the ${total} of the run` : "");
}

function enlarge(at) {
  if (!shown.length) return;
  current = (at + shown.length) % shown.length;
  const figure = shown[current], image = figure.querySelector("img");
  const large = dialog.querySelector("img");
  large.src = image.src;
  large.alt = image.alt;
  document.getElementById("words").replaceChildren(figure.querySelector("figcaption").cloneNode(true));
  if (!dialog.open) dialog.showModal();
}

figures.forEach(figure => figure.querySelector("button").addEventListener(
  "click", () => enlarge(shown.indexOf(figure))));
document.getElementById("before").addEventListener("click", () => enlarge(current - 1));
document.getElementById("after").addEventListener("click", () => enlarge(current + 1));
document.getElementById("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
document.addEventListener("keydown", event => {
  if (!dialog.open) return;
  if (event.key === "ArrowLeft") enlarge(current - 1);
  if (event.key === "ArrowRight") enlarge(current + 1);
});
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
selects.forEach(select => select.addEventListener("change", filter));
search.addEventListener("input", filter);
filter();
</script>
</body>
</html>
"""
