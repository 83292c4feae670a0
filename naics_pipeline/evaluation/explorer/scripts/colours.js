// Which colour stands for what, in light and in dark.

const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const STEPS = 24;
const NEUTRAL = () => (DARK.matches ? "oklch(0.5 0.01 250)" : "oklch(0.78 0.01 250)");

/** The colour of a theme's variable in page.css. */
const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** n colours of which neighbours in the list differ most: hues by the golden angle, lightness in turn. */
function categoryColours(n) {
  const lightness = DARK.matches ? [0.72, 0.82, 0.64] : [0.55, 0.66, 0.47];
  return Array.from({ length: n }, (_, i) => {
    const hue = (25 + i * 137.508) % 360;
    return `oklch(${lightness[i % 3]} ${DARK.matches ? 0.13 : 0.15} ${hue.toFixed(1)})`;
  });
}

/** Colour of a share from 0 to 1: quiet to strong. */
function rampColour(share) {
  const strong = DARK.matches ? [0.9, 0.14, 95] : [0.4, 0.17, 290];
  const quiet = DARK.matches ? [0.42, 0.09, 280] : [0.88, 0.06, 195];
  const [l, c, h] = quiet.map((value, k) => value + share * (strong[k] - value));
  return `oklch(${l.toFixed(3)} ${c.toFixed(3)} ${h.toFixed(1)})`;
}

/**
 * Codes coloured by a column: {palette, index, legend}; index says which colour of the palette each code has.
 * A legend is {entries: [{label, colour, code}]} or {low, high, ramp}.
 */
function colouring(model, space, choice) {
  if (choice === "sector") return bySector(model, space);
  if (choice === "level") return byLevel(model);
  const column = [...space.columns, ...model.columns].find((one) => one.name === choice);
  return column.kind === "category" ? byCategory(model, column) : byNumber(model, column);
}

function bySector(model, space) {
  // The order round the circle of the first space: sides that meet look different, and a sector keeps its colour.
  const angle = model.spaces[0].angle;
  const ordered = [...model.roots].sort((a, b) => angle[a] - angle[b]);
  const palette = categoryColours(ordered.length);
  const place = new Map(ordered.map((root, k) => [root, k]));
  const index = Uint16Array.from(model.sector, (root) => place.get(root));
  const entries = model.roots.map((root) => ({ label: model.name(root), colour: palette[place.get(root)], code: root }));
  return { palette, index, legend: { entries } };
}

function byLevel(model) {
  const palette = LEVELS.map((_, k) => rampColour(k / (LEVELS.length - 1)));
  const entries = LEVELS.map((level, k) => ({ label: `${level} digits`, colour: palette[k] }));
  return { palette, index: Uint16Array.from(model.level, (level) => level - 2), legend: { entries } };
}

function byCategory(model, column) {
  const names = [...new Set(column.values.filter((value) => value !== null))].sort();
  const palette = [...categoryColours(names.length), NEUTRAL()];
  const place = new Map(names.map((name, k) => [name, k]));
  const index = Uint16Array.from(column.values, (value) => place.get(value) ?? names.length);
  const entries = names.slice(0, 40).map((name, k) => ({ label: name, colour: palette[k] }));
  if (names.length > 40) entries.push({ label: `and ${names.length - 40} more`, colour: NEUTRAL() });
  return { palette, index, legend: { entries } };
}

function byNumber(model, column) {
  const known = column.values.filter((value) => value !== null).sort((a, b) => a - b);
  // One far value must not leave one colour for all others.
  const at = (share) => known[Math.round(share * (known.length - 1))] ?? 0;
  const low = at(0.01), high = at(0.99);
  const ramp = Array.from({ length: STEPS }, (_, k) => rampColour(k / (STEPS - 1)));
  const index = Uint16Array.from(column.values, (value) => {
    if (value === null) return STEPS;
    const share = high > low ? (value - low) / (high - low) : 0;
    return Math.round(Math.min(Math.max(share, 0), 1) * (STEPS - 1));
  });
  const missing = column.values.length - known.length;
  return { palette: [...ramp, NEUTRAL()], index, legend: { low, high, ramp, missing } };
}
