// A table that is searched and sorted, drawn a hundred rows at a time.

const ROWS = 100;

class DataTable {
  /**
   * @param columns [{label, value(row), show?(row), numeric?}]; value sorts and is searched, show is what stands there
   * @param picked told the row that is clicked
   */
  constructor(place, label, columns, rows, picked, sorted = 0, down = false) {
    Object.assign(this, { columns, rows, picked, sorted, down, shown: ROWS, typed: "" });
    const search = element("input", {
      type: "search", placeholder: `Search ${counted(rows.length)} ${label}`, attributes: { "aria-label": `Search ${label}` },
    });
    search.addEventListener("input", () => {
      this.typed = search.value;
      this.shown = ROWS;
      this.#fill();
    });
    this.search = search;
    this.count = element("span", { className: "soft", attributes: { "aria-live": "polite" } });
    this.heads = columns.map((column, k) => this.#head(column, k));
    this.body = element("tbody");
    this.more = element("button", { type: "button", textContent: "Show more" });
    this.more.addEventListener("click", () => {
      this.shown += ROWS;
      this.#fill();
    });
    const head = element("thead", {}, element("tr", {}, ...this.heads));
    const table = element("table", { attributes: { "aria-label": label } }, head, this.body);
    place.replaceChildren(
      element("div", { className: "bar" }, search, this.count),
      element("div", { className: "wide tall", tabIndex: 0, attributes: { role: "group", "aria-label": label } }, table),
      this.more,
    );
    this.texts = new Map(rows.map((row) => [row, columns.map((column) => this.#cell(column, row)).join(" ").toLowerCase()]));
    this.#fill();
  }

  /** Searches for this, as if it were typed. */
  find(text) {
    this.search.value = text;
    this.search.dispatchEvent(new Event("input"));
  }

  #head(column, k) {
    const button = element("button", { type: "button", textContent: column.label });
    button.addEventListener("click", () => {
      this.down = this.sorted === k ? !this.down : Boolean(column.numeric);
      this.sorted = k;
      this.shown = ROWS;
      this.#fill();
    });
    return element("th", { className: column.numeric ? "number" : "", attributes: { scope: "col" } }, button);
  }

  #cell(column, row) {
    const value = column.show ? column.show(row) : column.value(row);
    return value === null || value === undefined ? "–" : String(value);
  }

  #fill() {
    const words = this.typed.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.rows.filter((row) => words.every((word) => this.texts.get(row).includes(word)));
    const { value } = this.columns[this.sorted], sign = this.down ? -1 : 1;
    // What is not known comes last, whichever way round.
    found.sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
    this.heads.forEach((head, k) => {
      if (k === this.sorted) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.body.replaceChildren(...found.slice(0, this.shown).map((row) => this.#row(row)));
    this.count.textContent = `${counted(Math.min(this.shown, found.length))} of ${counted(found.length)} shown`;
    this.more.hidden = found.length <= this.shown;
  }

  #row(row) {
    const made = element("tr");
    this.columns.forEach((column, k) => {
      const text = this.#cell(column, row);
      const content = k || !this.picked ? text : element("button", { type: "button", className: "link", textContent: text });
      made.append(element("td", { className: column.numeric ? "number" : "" }, content));
    });
    if (this.picked) made.addEventListener("click", () => this.picked(row));
    return made;
  }
}
