const $ = (id) => document.getElementById(id);
const PAUSE = 180; // Milliseconds without a key before the text is asked about.
const kept = [];
let asked = null; // The request under way.
let shown = null; // The text that the codes below belong to.

function make(tag, properties = {}, ...inner) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inner.filter((one) => one !== null));
  return element;
}

async function ask(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  let said = `${response.status} ${response.statusText}`;
  try { said = (await response.json()).detail; } catch { /* The status has to do. */ }
  throw new Error(said);
}

function state(place, text, problem = false) {
  place.textContent = text;
  place.classList.toggle("problem", problem);
}

const percent = (p) => (p >= 0.995 ? "> 99 %" : p < 0.005 ? "< 1 %" : `${Math.round(100 * p)} %`);

async function search() {
  const text = $("text").value.trim();
  asked?.abort();
  if (!text) { shown = null; clear(); state($("state"), ""); return; }
  asked = new AbortController();
  const mine = asked;
  state($("state"), "Searching …");
  try {
    const response = await ask("/api/search", {
      method: "POST", signal: mine.signal, headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ texts: [text], k: 6 }),
    });
    const [answer] = await response.json();
    if (mine !== asked) return;
    shown = text;
    state($("state"), "");
    show(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    clear();
    state($("state"), error.message, true);
  }
}

function clear() {
  $("answer").hidden = true;
  $("candidates").replaceChildren();
}

function show(answer) {
  const best = answer.answer;
  const parts = best
    ? [make("div", {}, make("span", { className: "code", textContent: best.code }), "  ",
        make("span", { className: "title", textContent: best.title }), make("span", { className: "soft", textContent: `  ${percent(best.probability)}` }))]
    : [make("div", { className: "title", textContent: "No code is probable enough." })];
  const above = answer.levels.filter((level) => best && best.code.startsWith(level.code) && level.code !== best.code);
  if (above.length) parts.push(make("div", { className: "path soft", textContent: above.map((level) => `${level.code} ${level.title}`).join("  ›  ") }));
  if (best && best.code.length < 6) parts.push(make("p", { className: "soft", textContent: "Six digits would be a guess: the codes below are those that come into question." }));
  if (answer.activities.length) {
    parts.push(make("p", { textContent: "Several activities:" }), make("ul", {}, ...answer.activities.map((one) =>
      make("li", { textContent: `“${one.part}”: ${one.code} ${one.title}, ${percent(one.probability)}` }))));
  }
  parts.push(...answer.notes.map((note) => make("p", { className: "note", textContent: note })));
  $("answer").replaceChildren(...parts);
  $("answer").hidden = false;
  // Of a text without a known word all codes are equally unlikely.
  $("candidates").replaceChildren(...answer.candidates.filter((one) => one.probability >= 0.005).map(candidate));
}

function bar(probability) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg"), rect = document.createElementNS(space, "rect");
  svg.setAttribute("aria-hidden", "true");
  rect.setAttribute("width", `${100 * probability}%`);
  rect.setAttribute("height", "100%");
  svg.append(rect);
  return make("span", { className: "chance" }, svg, make("span", { textContent: percent(probability) }));
}

function candidate(found) {
  const why = make("div", { className: "why" });
  const part = (title, ...inner) => why.append(make("h3", { textContent: title }), make("p", {}, ...inner));
  part("Path", found.path.map((one) => `${one.code} ${one.title}`).join("  ›  "));
  if (found.entries.length) part("Nearest texts of this code", found.entries.join(" · "));
  if (found.words.length) part("Words they share", ...found.words.map((word) => make("span", { className: "word", textContent: word })));
  if (found.confused_with.length) part("Do not confuse with", found.confused_with.map((one) => `${one.code} ${one.title}`).join(" · "));
  const accept = make("button", { type: "button", textContent: "Accept (A)" });
  accept.addEventListener("click", () => keep(shown, found.code));
  why.append(make("p", {}, accept));
  const summary = make("summary", {}, make("span", { className: "code", textContent: found.code }),
    make("span", { textContent: found.title }), bar(found.probability));
  summary.dataset.code = found.code;
  return make("li", {}, make("details", {}, summary, why));
}

function keep(text, code) {
  if (!text) return;
  const before = kept.findIndex((one) => one.text === text);
  if (before >= 0) kept.splice(before, 1);
  kept.push({ text, code });
  list();
}

function list() {
  $("kept").replaceChildren(...kept.map((one, place) => {
    const remove = make("button", { type: "button", textContent: "×", title: "Remove" });
    remove.setAttribute("aria-label", `Remove ${one.text}`);
    remove.addEventListener("click", () => { kept.splice(place, 1); list(); });
    return make("li", {}, make("span", { className: "code", textContent: one.code }), make("span", { textContent: one.text }), remove);
  }));
  $("count").textContent = kept.length ? `(${kept.length})` : "";
  $("save").disabled = !kept.length;
}

const quoted = (value) => `"${value.replaceAll('"', '""').replaceAll(/\s+/g, " ")}"`;

function download(content, name) {
  const address = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

let waiting;
$("text").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, PAUSE); });
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); clearTimeout(waiting); search(); }
});
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const rows = [...document.querySelectorAll("#candidates summary")];
  const at = rows.indexOf(document.activeElement);
  if (event.key === "/" && !typing) { event.preventDefault(); $("text").focus(); $("text").select(); }
  else if (event.key === "ArrowDown" && (at >= 0 || document.activeElement === $("text")) && rows.length) {
    event.preventDefault(); rows[Math.min(at + 1, rows.length - 1)].focus();
  } else if (event.key === "ArrowUp" && at >= 0) { event.preventDefault(); (rows[at - 1] ?? $("text")).focus(); }
  else if (event.key.toLowerCase() === "a" && at >= 0) keep(shown, rows[at].dataset.code);
});

$("right").addEventListener("input", async () => {
  const query = $("right").value.trim();
  if (query.length < 2) return;
  try {
    const codes = await (await ask(`/api/codes?query=${encodeURIComponent(query)}`)).json();
    if (query === $("right").value.trim()) $("known").replaceChildren(...codes.map((one) => make("option", { value: one.code, label: `${one.code} ${one.title}`, textContent: one.title })));
  } catch (error) { state($("state"), error.message, true); }
});
$("correct").addEventListener("submit", async (event) => {
  event.preventDefault();
  const code = $("right").value.trim().slice(0, 6), text = $("text").value.trim();
  if (!text) { state($("state"), "There is no text above to correct.", true); $("text").focus(); return; }
  try {
    const codes = await (await ask(`/api/codes?query=${encodeURIComponent(code || " ")}`)).json();
    if (!codes.some((one) => one.code === code)) { state($("state"), `${code || "Nothing"} is no six-digit code of this classification.`, true); return; }
    keep(text, code);
    $("right").value = "";
    state($("state"), "");
  } catch (error) { state($("state"), error.message, true); }
});
$("save").addEventListener("click", () =>
  download(["text,code", ...kept.map((one) => `${quoted(one.text)},${one.code}`)].join("\n") + "\n", "corrections.csv"));

let file = null;
async function choose(chosen) {
  file = chosen;
  if (!file) return;
  const first = (await file.slice(0, 65536).text()).replace(/^\uFEFF/, "").split(/\r?\n/, 1)[0];
  const names = [...first.matchAll(/("(?:[^"]|"")*"|[^,]*)(?:,|$)/g)].map((match) => match[1].replace(/^"|"$/g, "").replaceAll('""', '"'));
  if (names.length > 1 && names.at(-1) === "" && !first.endsWith(",")) names.pop();
  $("column").replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
  const likely = names.find((name) => /text|descri|activit|what/i.test(name));
  if (likely) $("column").value = likely;
  $("columns").hidden = false;
  state($("file-state"), `${file.name}: which column says what the business does?`);
  $("column").focus();
}
$("file").addEventListener("change", () => choose($("file").files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
  });
}
$("code-file").addEventListener("click", async () => {
  $("code-file").disabled = true;
  state($("file-state"), "Coding …");
  try {
    const response = await ask(`/api/classify?text=${encodeURIComponent($("column").value)}`, { method: "POST", body: file, headers: { "Content-Type": "text/csv" } });
    const coded = await response.text();
    download(coded, file.name.replace(/(\.csv)?$/i, ".coded.csv"));
    state($("file-state"), `Done: ${file.name.replace(/(\.csv)?$/i, ".coded.csv")} is in your downloads.`);
  } catch (error) { state($("file-state"), error.message, true); }
  $("code-file").disabled = false;
});

ask("/api/about").then((response) => response.json()).then((about) => {
  $("about").textContent = `NAICS ${about.vintage}, ${about.codes.toLocaleString("en")} six-digit codes, index ${about.index_version}. Probabilities are calibrated on index entries; on long descriptions they promise too much.`;
}, (error) => state($("about"), error.message, true));
