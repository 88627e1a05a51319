"use strict";
// Sorting, filtering, choosing columns and views, and pictures that open large. Without it the page shows everything.

// Tables: a click on a heading sorts by it, numbers first downwards; what is missing stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    const label = heading.querySelector(".heading");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label.textContent;
    button.title = label.title;
    label.replaceWith(button);
    button.addEventListener("click", () => {
      const first = heading.classList.contains("words") ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      for (const each of headings) each.setAttribute("aria-sort", each === heading ? order : "none");
      sort(table.tBodies[0], place, order === "ascending" ? 1 : -1);
    });
  });
}

function sort(body, place, sign) {
  const rows = [...body.rows].map((row) => [key(row.cells[place]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  });
  body.append(...rows.map(([, row]) => row));
}

function key(cell) {
  const text = cell.dataset.value ?? cell.firstChild?.textContent.trim() ?? "";
  if (text === "" || text === "–") return null;
  return Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text);
}

// Columns of a group are shown and hidden together; at first, as many groups as fit beside each other.
for (const chooser of document.querySelectorAll("fieldset.groups")) {
  const table = document.getElementById(chooser.dataset.table);
  const boxes = [...chooser.querySelectorAll("input")];
  chooser.hidden = boxes.length < 2;
  const show = (box) => {
    for (const cell of table.querySelectorAll(`[data-group="${CSS.escape(box.value)}"]`)) {
      cell.classList.toggle("off", !box.checked);
    }
  };
  for (const box of boxes) box.addEventListener("change", () => show(box));
  for (const box of boxes.slice(1).reverse()) {
    if (table.offsetWidth <= table.parentElement.clientWidth) break;
    box.checked = false;
    show(box);
  }
}

// The filter keeps what is about methods with one of its words in their names, and about the chosen model.
const filter = document.getElementById("filter");
const chosen = document.getElementById("model");
filter.form.hidden = false;
filter.form.addEventListener("submit", (event) => event.preventDefault());
filter.form.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
  const kept = new Set();
  const all = new Set();
  for (const element of document.querySelectorAll("[data-method], [data-model]")) {
    const { method, model } = element.dataset;
    const named = method === undefined || !words.length || words.some((word) => method.toLowerCase().includes(word));
    const ofModel = model === undefined || !chosen?.value || model === chosen.value;
    element.classList.toggle("filtered", !(named && ofModel));
    if (method === undefined) continue;
    all.add(method);
    if (named) kept.add(method);
  }
  document.getElementById("filter-found").textContent = words.length ? `${kept.size} of ${all.size}` : "";
});

// The gallery shows labels, errors or enlarged boundaries.
for (const chooser of document.querySelectorAll("fieldset.views")) {
  const gallery = document.getElementById(chooser.dataset.gallery);
  chooser.hidden = false;
  gallery.dataset.view = chooser.querySelector("input:checked").value;
  chooser.addEventListener("change", (event) => {
    gallery.dataset.view = event.target.value;
  });
}

// A picture opens large; arrows go through the pictures of its image in place, Escape closes (as dialogs do).
const dialog = document.getElementById("large");
let series = [];
let place = 0;

function show(step) {
  place = (place + step + series.length) % series.length;
  const source = series[place].querySelector("img");
  const picture = document.createElement("img");
  picture.src = source.src;
  picture.alt = source.alt;
  document.getElementById("large-picture").replaceChildren(picture);
  document.getElementById("large-caption").textContent = `${place + 1} of ${series.length}: ${source.alt}`;
}

for (const button of document.querySelectorAll(".enlarge")) {
  button.title = "Open large";
  button.addEventListener("click", () => {
    const around = [...button.closest(".pictures").querySelectorAll(".enlarge")];
    series = around.filter((other) => other.offsetParent !== null);
    place = series.indexOf(button);
    show(0);
    dialog.showModal();
  });
}
document.getElementById("large-previous").addEventListener("click", () => show(-1));
document.getElementById("large-next").addEventListener("click", () => show(1));
document.getElementById("large-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") show(-1);
  if (event.key === "ArrowRight") show(1);
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});

// Paper shows what is folded away, but for matrices and configuration.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open], .matrix):not(:has(pre))")];
  for (const each of opened) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of opened) each.open = false;
});
