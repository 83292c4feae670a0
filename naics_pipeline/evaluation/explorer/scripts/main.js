// Everything put together.

const byId = (id) => document.getElementById(id);
const model = new Model(JSON.parse(byId("data").textContent));
let space = model.spaces[0];
let colourBy = "sector";

const tip = byId("tip");
const disk = new Disk(byId("disk"), model, {
  hovered: (target, x, y) => showTip(tip, model, space, target, disk.selected, x, y),
  picked: (code) => choose(code),
  textPicked: (text) => chooseText(text),
});

function choose(code) {
  disk.shownText = undefined;
  disk.select(code);
  showDetails(byId("details"), model, space, code, choose);
  tip.hidden = true;
  const address = code < 0 ? location.pathname + location.search : `#${model.code[code]}`;
  history.replaceState(null, "", address);
}

function chooseText(text) {
  choose(model.texts.found[text]);
  disk.shownText = model.texts.right[text] === model.texts.found[text] ? undefined : text;
  byId("details").prepend(element("div", { className: "note" }, ...textTip(model, text)));
}

function recolour() {
  disk.setSectorColours(colouring(model, space, "sector"));
  const colours = colouring(model, space, colourBy);
  disk.setColours(colours);
  showLegend(byId("legend"), colours.legend, choose);
}

function listColours() {
  const select = byId("colour");
  const option = (value, label) => element("option", { value, textContent: label });
  select.replaceChildren(
    option("sector", "Sector"),
    option("level", "Level"),
    ...[...space.columns, ...model.columns].map((column) => option(column.name, column.label)),
  );
  select.value = colourBy;
}

function showSpace(chosen) {
  space = chosen;
  disk.setSpace(space);
  listColours();
  recolour();
  if (disk.selected >= 0) choose(disk.selected);
  const { dimensions, correlation, error, kept, geometry } = space;
  const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);
  byId("trust").textContent = `Two dimensions distort: r = ${shown(correlation)} with the true distances, ${percent(kept)} of the nearest kept.`;
  byId("distortion").textContent =
    `${dimensions} ${geometry === "euclidean" ? "" : "hyperbolic "}dimensions in two: distances correlate with the true ones at ` +
    `r = ${shown(correlation)}, are off by ${percent(error)} for the median code, and ${percent(kept)} of a code’s ten nearest here are its ten nearest.`;
}

/** A CSV file of the reader's own, with a column code: its other columns become colours. */
async function addColumns(file) {
  const note = byId("file-note");
  const [head, ...rows] = parseCsv(await file.text());
  const at = head?.findIndex((name) => name.trim().toLowerCase() === "code") ?? -1;
  if (at < 0) {
    note.textContent = `${file.name} has no column named code.`;
    return;
  }
  const places = rows.map((row) => [model.index.get(row[at]?.trim()), row]).filter(([i]) => i !== undefined);
  const added = head.map((name, k) => k).filter((k) => k !== at).map((k) => ownColumn(head[k].trim(), k, places));
  model.columns = [...model.columns.filter((old) => !added.some((one) => one.name === old.name)), ...added];
  note.textContent = `${file.name}: ${counted(places.length)} of ${counted(rows.length)} rows name a code of this taxonomy.`;
  if (!added.length || !places.length) return;
  colourBy = added[0].name;
  listColours();
  recolour();
}

function ownColumn(label, k, places) {
  const values = new Array(model.size).fill(null);
  for (const [i, row] of places) values[i] = row[k]?.trim() || null;
  const known = values.filter((value) => value !== null);
  const numeric = known.length > 0 && known.every((value) => Number.isFinite(Number(value)));
  const kind = numeric ? "number" : "category";
  return { name: `own ${label}`, label, kind, values: numeric ? values.map((value) => (value === null ? null : Number(value))) : values };
}

/** Rows of cells; quoted cells may hold commas, line ends and doubled quotes. */
function parseCsv(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.replace(/^\ufeff/, "").matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === "") break;
    if (end !== ",") rows.push([]);
  }
  return rows.filter((row) => row.length > 1 || row[0]);
}

function showCharts() {
  for (const one of model.spaces) {
    densityChart(byId("density"), one);
    radiusChart(byId("radii"), one);
  }
  const columns = [...model.spaces.flatMap((one) => one.columns.map((column) => ({ ...column, label: labelled(one, column) }))), ...model.columns];
  new DataTable(
    byId("codes"), "codes",
    [
      { label: "Code", value: (i) => model.code[i] },
      { label: "Title", value: (i) => model.title[i] },
      { label: "Level", value: (i) => model.level[i], numeric: true },
      ...columns.map(({ label, values, kind }) => ({ label, value: (i) => values[i], numeric: kind === "number" })),
    ],
    Array.from({ length: model.size }, (_, i) => i),
    (i) => goTo(() => choose(i)),
  );
  if (model.texts) showTexts();
  else byId("texts-part").hidden = true;
}

const labelled = (one, column) => (model.spaces.length > 1 ? `${column.label}, ${one.label}` : column.label);

function showTexts() {
  const { text, right, found, found_probability: likely, right_probability: own, rank, reliability, confusion, sectors } = model.texts;
  const wrong = text.map((_, i) => i).filter((i) => found[i] !== right[i]);
  byId("texts-lead").textContent =
    `${counted(text.length)} index entries that nothing was trained or chosen on; ${counted(wrong.length)} find another code than the right one first.`;
  const errors = new DataTable(
    byId("errors"), "errors",
    [
      { label: "Text", value: (i) => text[i] },
      { label: "Right code", value: (i) => model.name(right[i]) },
      { label: "Found", value: (i) => model.name(found[i]) },
      { label: "Probability found", value: (i) => likely[i], show: (i) => shown(likely[i], 3), numeric: true },
      { label: "Probability right", value: (i) => own[i], show: (i) => shown(own[i], 3), numeric: true },
      { label: "Rank of the right code", value: (i) => rank[i], numeric: true },
      { label: "Edges apart", value: (i) => model.treeDistance(found[i], right[i]), numeric: true },
      { label: "Sectors", value: (i) => `${model.code[model.sector[right[i]]]}→${model.code[model.sector[found[i]]]}` },
    ],
    wrong,
    (i) => goTo(() => chooseText(i)),
    3, true,
  );
  const between = (from, to) => {
    errors.find(`${from}→${to}`);
    byId("errors").scrollIntoView({ behavior: "smooth" });
  };
  confusionChart(byId("confusion"), model, between);
  const pairs = confusion.flatMap((row, r) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return row.map((count, c) => ({ from: sectors[r], to: sectors[c], count, share: count / total }));
  });
  const named = (code) => model.name(model.index.get(code));
  new DataTable(
    byId("pairs"), "pairs of sectors",
    [
      { label: "Right", value: (pair) => named(pair.from) },
      { label: "Found", value: (pair) => named(pair.to) },
      { label: "Texts", value: (pair) => pair.count, numeric: true },
      { label: "Share of the right sector", value: (pair) => pair.share, show: (pair) => `${shown(100 * pair.share, 1)} %`, numeric: true },
    ],
    pairs.filter((pair) => pair.count && pair.from !== pair.to),
    (pair) => between(pair.from, pair.to),
    2, true,
  );
  for (const [level, bins] of Object.entries(reliability)) reliabilityChart(byId("reliability"), level, bins);
}

function goTo(then) {
  byId("disk").scrollIntoView({ block: "nearest" });
  window.scrollTo({ top: 0 });
  then();
}

function connect() {
  new SearchBox(byId("search"), byId("results"), model, choose);
  const spaces = byId("space");
  spaces.append(...model.spaces.map((one, k) => element("option", { value: k, textContent: one.label })));
  spaces.closest("label").hidden = model.spaces.length < 2;
  spaces.addEventListener("change", () => showSpace(model.spaces[spaces.value]));
  byId("colour").addEventListener("change", (event) => {
    colourBy = event.target.value;
    recolour();
  });
  byId("texts").closest("label").hidden = !model.texts;
  byId("texts").addEventListener("change", (event) => disk.setTexts(event.target.value));
  byId("file").addEventListener("change", (event) => event.target.files[0] && addColumns(event.target.files[0]));
  byId("home").addEventListener("click", () => disk.home());
  byId("closer").addEventListener("click", () => disk.magnify(1.4, disk.width / 2, disk.height / 2));
  byId("farther").addEventListener("click", () => disk.magnify(1 / 1.4, disk.width / 2, disk.height / 2));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    event.preventDefault();
    byId("search").focus();
  });
  DARK.addEventListener("change", () => {
    disk.refreshTheme();
    recolour();
  });
  window.addEventListener("hashchange", chooseFromAddress);
}

function chooseFromAddress() {
  const code = model.index.get(location.hash.slice(1));
  if (code !== undefined && code !== disk.selected) choose(code);
}

byId("counts").textContent = `${counted(model.size)} codes`;
connect();
showDetails(byId("details"), model, space, -1, choose);
showSpace(space);
chooseFromAddress();
// The picture first: the tables below it can wait for a frame.
requestAnimationFrame(() => setTimeout(showCharts));
