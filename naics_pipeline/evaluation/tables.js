// Tables of a still page, sorted by a click on a heading and searched; without this script they are what they were.

const SEARCHED = 8;
const UNKNOWN = "–";

/** What a cell says, without the small print below it. */
function wordsOf(cell) {
  const copy = cell.cloneNode(true);
  for (const small of copy.querySelectorAll(".interval, .reading, .soft")) small.remove();
  return copy.textContent.trim();
}

/** The number that words begin with, NaN where they are no number. */
function numberOf(words) {
  if (words === "∞") return Infinity;
  const bare = words.replaceAll(",", "").replace("−", "-");
  return /^[+-]?(\d|\.\d)/.test(bare) ? Number(bare.split(" ")[0]) : NaN;
}

/** The rows by one column: numbers as such where all are, and what is not known last, whichever way round. */
function ordered(rows, column, down) {
  const keyed = rows.map((row) => [row, wordsOf(row.cells[column])]);
  const known = keyed.filter(([, words]) => words && words !== UNKNOWN);
  const numeric = known.every(([, words]) => !Number.isNaN(numberOf(words)));
  const compare = (x, y) => numeric ? numberOf(x) - numberOf(y) : x.localeCompare(y, "en", { numeric: true });
  known.sort(([, x], [, y]) => (down ? compare(y, x) : compare(x, y)));
  return [...known, ...keyed.filter((pair) => !known.includes(pair))].map(([row]) => row);
}

/** Headings that sort: down, up, and back to the order in which the page was written. */
function sortable(table, rows) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  let sorted = null;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    head.scope = "col";
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      if (sorted) sorted.removeAttribute("aria-sort");
      sorted = now === "ascending" ? null : head;
      if (sorted) head.setAttribute("aria-sort", now === "descending" ? "ascending" : "descending");
      body.append(...(sorted ? ordered(rows, column, now !== "descending") : rows));
    });
  });
}

/** A field above the table; a row stays that holds every word. */
function searchable(table, rows) {
  const told = (row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
  const texts = new Map(rows.map((row) => [row, told(row)]));
  const search = document.createElement("input");
  const label = `Search these ${rows.length} rows`;
  Object.assign(search, { type: "search", placeholder: label });
  search.setAttribute("aria-label", label);
  const count = document.createElement("span");
  count.className = "soft";
  count.setAttribute("aria-live", "polite");
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => texts.get(row).includes(word));
    const found = rows.filter((row) => !row.hidden).length;
    count.textContent = words.length ? `${found} of ${rows.length} rows` : "";
  });
  const bar = document.createElement("div");
  bar.className = "search";
  bar.append(search, count);
  (table.closest(".wide") ?? table).before(bar);
}

for (const table of document.querySelectorAll("table")) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length > 1) sortable(table, rows);
  if (rows.length >= SEARCHED) searchable(table, rows);
}
