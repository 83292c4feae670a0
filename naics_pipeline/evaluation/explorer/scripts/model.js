// What the page knows: the codes as a tree, each space with its picture, and the held-out texts.

const LEVELS = [2, 3, 4, 5, 6];

class Model {
  constructor(data) {
    const { code, parent, title, description, examples } = data.codes;
    Object.assign(this, { code, parent, title, description, examples });
    this.about = data.about;
    this.size = code.length;
    this.level = Uint8Array.from(code, (text) => text.length);
    this.children = code.map(() => []);
    this.roots = [];
    parent.forEach((above, i) => (above < 0 ? this.roots : this.children[above]).push(i));
    this.sector = new Int32Array(this.size);
    for (let i = 0; i < this.size; i++) this.sector[i] = this.path(i)[0];
    this.index = new Map(code.map((text, i) => [text, i]));
    this.words = code.map((text, i) => `${text} ${title[i]}`.toLowerCase());
    this.further = code.map((_, i) => [description[i], ...examples[i]].join("\n").toLowerCase());
    this.texts = data.texts;
    this.columns = data.columns;
    this.spaces = data.spaces.map((space) => new Space(space, this.size));
  }

  /** From the sector down to the code itself. */
  path(i) {
    const found = [];
    for (let at = i; at >= 0; at = this.parent[at]) found.unshift(at);
    return found;
  }

  name(i) {
    return `${this.code[i]} ${this.title[i]}`;
  }

  /** Edges between two codes, over the root where they share no sector. */
  treeDistance(i, j) {
    const a = this.path(i), b = this.path(j);
    let shared = 0;
    while (shared < a.length && shared < b.length && a[shared] === b[shared]) shared++;
    return a.length + b.length - 2 * shared;
  }

  /** Codes for what was typed, best first: a code, the beginning of one, words of a title, or of what belongs to it. */
  search(typed, limit = 12) {
    const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const found = [];
    for (let i = 0; i < this.size; i++) {
      const score = this.#match(i, words);
      if (score > 0) found.push([score - this.level[i] / 100, i]);
    }
    return found.sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, limit).map(([, i]) => i);
  }

  /** The first example with these words, where neither code nor title has them all. */
  exampleOf(i, typed) {
    const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.every((word) => this.words[i].includes(word))) return undefined;
    return this.examples[i].find((text) => words.every((word) => text.toLowerCase().includes(word)));
  }

  #match(i, words) {
    let score = 0;
    for (const word of words) {
      if (this.code[i] === word) score += 8;
      else if (this.code[i].startsWith(word)) score += 4;
      else {
        const at = this.words[i].indexOf(word);
        if (at > 0) score += this.words[i][at - 1] === " " ? 3 : 1;
        else if (this.further[i].includes(word)) score += 0.2;
        else return 0;
      }
    }
    return score;
  }
}

/** One embedding: where its codes lie in the picture, and what is known of them in the full space. */
class Space {
  constructor(data, size) {
    Object.assign(this, data);
    [this.x, this.y] = inDisk(data.radius, data.angle, 1);
    this.nearest = size ? data.neighbours.length / size : 0;
    this.tangent = unpacked(data.points, size * data.dimensions);
    this.fullRadius = data.columns.find((column) => column.name === "radius").values;
    if (data.texts) [this.textX, this.textY] = inDisk(data.texts.radius, data.texts.angle, 0);
  }

  /** The codes nearest in the full space: [{code, distance}]. */
  neighboursOf(i) {
    const start = i * this.nearest;
    return Array.from({ length: this.nearest }, (_, k) => ({
      code: this.neighbours[start + k],
      distance: this.distances[start + k],
    }));
  }

  /** Distance of two codes in the full space, right to two decimals. */
  distance(i, j) {
    if (i === j) return 0;
    const width = this.dimensions;
    let product = 0, first = 0, second = 0;
    for (let k = 0; k < width; k++) {
      const u = this.tangent[i * width + k], v = this.tangent[j * width + k];
      product += u * v;
      first += u * u;
      second += v * v;
    }
    if (this.geometry === "euclidean") return Math.sqrt(Math.max(first + second - 2 * product, 0));
    const root = Math.sqrt(this.curvature);
    const r = root * Math.sqrt(first), s = root * Math.sqrt(second);
    const cosine = first && second ? product / Math.sqrt(first * second) : 0;
    const half = Math.sinh((r - s) / 2) ** 2 + (Math.sinh(r) * Math.sinh(s) * (1 - cosine)) / 2;
    return (2 * Math.asinh(Math.sqrt(Math.max(half, 0)))) / root;
  }
}

/** Coordinates of twelve bits, two in three bytes, each in steps of its axis. */
function unpacked({ step, base64 }, count) {
  const bytes = atob(base64), found = new Float32Array(count);
  for (let k = 0, at = 0; k < count; k += 2, at += 3) {
    const middle = bytes.charCodeAt(at + 1);
    found[k] = (bytes.charCodeAt(at) * 16 + (middle >> 4) - 2048) * step[k % step.length];
    if (k + 1 < count) found[k + 1] = ((middle & 15) * 256 + bytes.charCodeAt(at + 2) - 2048) * step[(k + 1) % step.length];
  }
  return found;
}

/** Polar coordinates of the plane as places in the disk, with so many places more at the centre. */
function inDisk(radius, angle, more) {
  const x = new Float64Array(radius.length + more), y = new Float64Array(radius.length + more);
  for (let i = 0; i < radius.length; i++) {
    const length = Math.tanh(radius[i] / 2);
    x[i] = length * Math.cos(angle[i]);
    // The screen's y goes down.
    y[i] = -length * Math.sin(angle[i]);
  }
  return [x, y];
}

const shown = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const counted = (value) => value.toLocaleString("en");

/** The text's first words, with an ellipsis where there are more. */
function shortened(text, length) {
  if (text.length <= length) return text;
  const words = text.slice(0, length).split(" ");
  if (words.length > 1) words.pop();
  return `${words.join(" ").replace(/[,;]$/, "")}…`;
}

/** A new element with properties, attributes (`attributes`), and children. */
function element(tag, properties = {}, ...children) {
  const { attributes = {}, ...own } = properties;
  const made = Object.assign(document.createElement(tag), own);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
