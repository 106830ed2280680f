"use strict";
// Filtering, sorting and enlarging: the page reads as well without them, so
// every control is put in from here.

const table = document.getElementById("verdict-table");
const body = table.tBodies[0];
const original = [...body.rows];

const template = document.getElementById("verdict-controls");
template.replaceWith(template.content.cloneNode(true));
const chosen = document.getElementById("verdict-filter");
const search = document.getElementById("verdict-search");
const shown = document.getElementById("verdict-status");

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of original) {
    const text = `${row.textContent} ${row.dataset.more}`.toLowerCase();
    const wanted = !chosen.value || row.dataset.verdict === chosen.value;
    row.hidden = !(wanted && words.every((word) => text.includes(word)));
    count += row.hidden ? 0 : 1;
  }
  shown.textContent = `Showing ${count} of ${original.length} claims.`;
}

const heads = [...table.tHead.rows[0].cells];

function unsort() {
  heads.forEach((head) => head.removeAttribute("aria-sort"));
}

function sort(head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  const column = heads.indexOf(head);
  const key = (row) => row.cells[column].dataset.value;
  const numbers = head.dataset.sort === "number";
  const order = (a, b) => (numbers ? a - b : a.localeCompare(b, "en"));
  // What has no value comes last, whichever way.
  const present = original.filter((row) => key(row) !== "");
  const missing = original.filter((row) => key(row) === "");
  present.sort((a, b) => (down ? -1 : 1) * order(key(a), key(b)));
  body.append(...present, ...missing);
  unsort();
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}

for (const head of heads.filter((each) => each.dataset.sort)) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}

chosen.addEventListener("change", filter);
search.addEventListener("input", filter);
document.getElementById("verdict-reset").addEventListener("click", () => {
  chosen.value = "";
  search.value = "";
  unsort();
  body.append(...original);
  filter();
});
filter();

function enlarge(picture, opener) {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-label", picture.alt);
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  const large = picture.cloneNode();
  large.className = "";
  dialog.append(close, large);
  for (const each of [close, large]) {
    each.addEventListener("click", () => dialog.close());
  }
  dialog.addEventListener("close", () => {
    dialog.remove();
    opener.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
}

for (const picture of document.querySelectorAll("img.zoom")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "enlarge";
  button.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
  picture.replaceWith(button);
  button.append(picture);
  button.addEventListener("click", () => enlarge(picture, button));
}
