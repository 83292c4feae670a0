// Beside the disk: the search box, what is selected with its nearest codes, the legend.

const SHOWN_EXAMPLES = 6;

/** A search box with a list of codes below it, led by the keyboard or the pointer. */
class SearchBox {
  constructor(input, list, model, picked) {
    Object.assign(this, { input, list, model, picked, found: [], active: -1 });
    input.addEventListener("input", () => this.#look());
    input.addEventListener("focus", () => this.#look());
    input.addEventListener("blur", () => this.#close());
    input.addEventListener("keydown", (event) => this.#key(event));
  }

  #look() {
    this.found = this.model.search(this.input.value);
    this.list.replaceChildren(
      ...this.found.map((code, k) => {
        const option = element("li", { id: `option-${k}`, attributes: { role: "option" } },
          element("b", { textContent: this.model.code[code] }), ` ${this.model.title[code]}`);
        const example = this.model.exampleOf(code, this.input.value);
        if (example) option.append(element("div", { className: "soft", textContent: example }));
        // Before the box loses its focus and closes the list.
        option.addEventListener("pointerdown", (event) => {
          event.preventDefault();
          this.#choose(k);
        });
        return option;
      }),
    );
    const nothing = this.input.value.trim() && !this.found.length;
    if (nothing) this.list.append(element("li", { className: "soft", textContent: "No code with these words." }));
    this.list.hidden = !this.list.children.length;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
    this.#mark(this.found.length ? 0 : -1);
  }

  #mark(k) {
    this.active = k;
    [...this.list.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === k)));
    if (k >= 0) this.input.setAttribute("aria-activedescendant", `option-${k}`);
    else this.input.removeAttribute("aria-activedescendant");
    this.list.children[k]?.scrollIntoView({ block: "nearest" });
  }

  #choose(k) {
    const code = this.found[k];
    this.#close();
    this.input.blur();
    this.picked(code);
  }

  #close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
  }

  #key(event) {
    const n = this.found.length;
    if (event.key === "ArrowDown" && n) this.#mark((this.active + 1) % n);
    else if (event.key === "ArrowUp" && n) this.#mark((this.active + n - 1) % n);
    else if (event.key === "Enter" && n) this.#choose(Math.max(this.active, 0));
    else if (event.key === "Escape") this.input.blur();
    else return;
    event.preventDefault();
  }
}

/** What is known of the selected code. */
function showDetails(place, model, space, i, picked) {
  if (i < 0) {
    const words = "Click a code, or search for one: it comes to the middle, with the codes nearest to it in the full space.";
    place.replaceChildren(element("p", { className: "soft", textContent: words }));
    return;
  }
  const link = (code, text) => {
    const button = element("button", { type: "button", className: "link", textContent: text, title: model.name(code) });
    button.addEventListener("click", () => picked(code));
    return button;
  };
  const path = model.path(i).slice(0, -1);
  const trail = element("p", { className: "trail" });
  path.forEach((code) => trail.append(link(code, model.name(code)), " › "));
  const children = model.children[i];
  const facts = [`${counted(model.level[i])} digits`, `${shown(space.fullRadius[i])} from the origin`];
  if (children.length) facts.push(`${children.length} ${children.length === 1 ? "child" : "children"}`);
  const rows = space.neighboursOf(i).map(({ code, distance }) => {
    const row = element("tr", {},
      element("td", {}, link(code, model.code[code])),
      element("td", { textContent: model.title[code] }),
      element("td", { className: "number", textContent: shown(distance) }));
    return row;
  });
  place.replaceChildren(
    trail,
    element("h2", {}, element("span", { className: "code", textContent: model.code[i] }), ` ${model.title[i]}`),
    element("p", { className: "soft", textContent: facts.join(" · ") }),
    element("p", { textContent: model.description[i] }),
    ...(model.examples[i].length ? [examplesOf(model.examples[i])] : []),
    element("h3", { textContent: "Nearest in the full space" }),
    element("table", { className: "nearest" }, element("tbody", {}, ...rows)),
  );
}

function examplesOf(texts) {
  const first = texts.slice(0, SHOWN_EXAMPLES).join(" · "), rest = texts.length - SHOWN_EXAMPLES;
  return element("p", { className: "soft", textContent: `Such as: ${first}${rest > 0 ? ` · and ${rest} more` : ""}` });
}

/** What the colours mean; a sector's entry leads to it. */
function showLegend(place, legend, picked) {
  if (legend.ramp) {
    const bar = element("div", { className: "ramp" }, ...legend.ramp.map((colour) => {
      const step = element("i");
      step.style.background = colour;
      return step;
    }));
    const ends = element("div", { className: "ends" }, element("span", { textContent: `≤ ${round(legend.low)}` }), element("span", { textContent: `≥ ${round(legend.high)}` }));
    const missing = legend.missing ? `${counted(legend.missing)} codes without a value are grey.` : "";
    place.replaceChildren(bar, ends, element("p", { className: "soft", textContent: missing }));
    return;
  }
  place.replaceChildren(element("ul", {}, ...legend.entries.map(({ label, colour, code }) => {
    const dot = element("i", { className: "dot" });
    dot.style.background = colour;
    const item = element("li", {}, dot);
    if (code === undefined) item.append(label);
    else {
      const button = element("button", { type: "button", className: "link", textContent: label });
      button.addEventListener("click", () => picked(code));
      item.append(button);
    }
    return item;
  })));
}

const round = (value) => (Number.isInteger(value) ? counted(value) : value.toPrecision(3));

/** What stands beside the pointer. */
function showTip(tip, model, space, target, selected, x, y) {
  tip.hidden = !target;
  if (!target) return;
  tip.replaceChildren(...(target.text !== undefined ? textTip(model, target.text) : codeTip(model, space, target.code, selected)));
  const room = tip.parentElement.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 16, room.width - own.width - 4))}px`;
  tip.style.top = `${y + 18 + own.height > room.height ? Math.max(4, y - own.height - 12) : y + 18}px`;
}

function codeTip(model, space, i, selected) {
  const path = model.path(i).slice(0, -1).map((code) => model.name(code)).join(" › ");
  const far = selected >= 0 && selected !== i
    ? `${shown(space.distance(selected, i))} from ${model.code[selected]}`
    : `${shown(space.fullRadius[i])} from the origin`;
  return [
    element("b", { textContent: model.name(i) }),
    ...(path ? [element("div", { className: "soft", textContent: path })] : []),
    element("div", { textContent: `${far}, in the full space` }),
  ];
}

function textTip(model, i) {
  const { text, right, found, found_probability: likely, right_probability: own, rank } = model.texts;
  const wrong = found[i] !== right[i];
  const lines = [element("b", { textContent: `“${text[i]}”` }), element("div", { textContent: `finds ${model.name(found[i])} (${shown(likely[i])})` })];
  if (wrong) lines.push(element("div", { className: "wrong", textContent: `right: ${model.name(right[i])} (${shown(own[i])}, rank ${rank[i]})` }));
  else lines.push(element("div", { className: "right", textContent: "which is right" }));
  return lines;
}
