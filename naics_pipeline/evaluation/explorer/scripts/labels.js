// Which names stand where: those round the rim kept apart, those inside only where there is room.

const LABEL_GAP = 15;
const FONT = 'system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif';

/** Names of sectors outside the rim; returns the codes that got one and the boxes that are taken. */
function drawRimLabels(context, frame, sectors) {
  const { cx, cy, scale, width, height, roomy } = frame;
  context.font = `600 12px ${FONT}`;
  context.textBaseline = "middle";
  const placed = { codes: new Set(), boxes: [] };
  for (const right of [true, false]) {
    const side = sectors
      .filter(({ middle, extent }) => extent > 0.035 && Math.cos(middle) >= 0 === right)
      .map((sector) => ({ ...sector, y: cy + (scale + 17) * Math.sin(sector.middle) }))
      .filter(({ y }) => y > 6 && y < height - 6)
      .sort((a, b) => a.y - b.y);
    spread(side, 9, height - 9);
    for (const { code, title, colour, middle, y } of side) {
      const reach = scale + 15, off = Math.min(Math.abs(y - cy), reach);
      // Where a label had to move, it follows the rim.
      const x = cx + (right ? 1 : -1) * Math.sqrt(Math.max(reach * reach - off * off, 0));
      const room = right ? width - x - 6 : x - 6;
      if (room < (roomy ? 16 : -12)) continue;
      const text = roomy ? fitted(context, `${code} ${title}`, room) : code;
      const long = context.measureText(text).width;
      const beside = roomy ? (right ? x : x - long) : cx + (scale + 15) * Math.cos(middle) - long / 2;
      const left = Math.min(Math.max(beside, 1), width - long - 1);
      context.textAlign = "left";
      context.fillStyle = colour;
      context.fillText(text, left, y);
      placed.codes.add(code);
      placed.boxes.push([left - 3, y - 8, left + long + 3, y + 8]);
    }
  }
  return placed;
}

/** Moves labels, sorted by y, so that they keep a gap: down first, then back up from the end. */
function spread(labels, top, bottom) {
  let least = top;
  for (const label of labels) {
    label.y = Math.max(label.y, least);
    least = label.y + LABEL_GAP;
  }
  let most = bottom;
  for (const label of [...labels].reverse()) {
    label.y = Math.min(label.y, most);
    most = label.y - LABEL_GAP;
  }
}

/** The text as far as it fits, cut at a word. */
function fitted(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  const words = text.split(" ");
  while (words.length > 1) {
    words.pop();
    const cut = `${words.join(" ").replace(/[,;]$/, "")}…`;
    if (context.measureText(cut).width <= room) return cut;
  }
  return words[0];
}

const MOST_LABELS = 45, MOVING_LABELS = 18, MOST_CANDIDATES = 160, LEAST_NEARNESS = 0.46;
const overlap = (a, b) => a[0] < b[2] && a[2] > b[0] && a[1] < b[3] && a[3] > b[1];

/** Names of codes near the middle of the view and of those asked for, none over another or over another's dot. */
class InnerLabels {
  #widths = new Map();

  /**
   * @param wanted codes that come first, whatever lies beneath
   * @param preferred codes that come next
   * @param rim what `drawRimLabels` has drawn
   */
  draw(context, model, scene, frame, wanted, preferred, rim) {
    const candidates = this.#candidates(scene, frame, wanted, preferred);
    const dots = candidates.map((i) => {
      const radius = dotRadius(scene, frame, i) - 1;
      const x = frame.cx + frame.scale * scene.x[i], y = frame.cy + frame.scale * scene.y[i];
      return { i, box: [x - radius, y - radius, x + radius, y + radius] };
    });
    const boxes = [...rim.boxes], most = frame.moving ? MOVING_LABELS : MOST_LABELS;
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.lineJoin = "round";
    for (const i of candidates) {
      if (boxes.length >= most + rim.boxes.length) break;
      if (!wanted.has(i) && rim.codes.has(model.code[i])) continue;
      this.#place(context, model, scene, frame, i, wanted.has(i), boxes, dots);
    }
  }

  #candidates(scene, frame, wanted, preferred) {
    const found = [];
    for (let i = 0; i < scene.size; i++) {
      if (wanted.has(i) || preferred.has(i)) continue;
      const x = scene.x[i], y = scene.y[i], near = 1 - x * x - y * y;
      if (near * Math.sqrt(frame.zoom) < LEAST_NEARNESS) continue;
      const sx = frame.cx + frame.scale * x, sy = frame.cy + frame.scale * y;
      if (sx < 0 || sy < 0 || sx > frame.width || sy > frame.height) continue;
      found.push([near - 0.03 * scene.level[i], i]);
    }
    found.sort((a, b) => b[0] - a[0]);
    return [...wanted, ...preferred, ...found.slice(0, MOST_CANDIDATES).map(([, i]) => i)];
  }

  #place(context, model, scene, frame, i, first, boxes, dots) {
    const code = model.code[i], title = shortened(model.title[i], frame.roomy ? 40 : 24);
    const [codeWidth, width] = this.#measured(context, i, code, title);
    const sx = frame.cx + frame.scale * scene.x[i], sy = frame.cy + frame.scale * scene.y[i];
    const gap = dotRadius(scene, frame, i) + 6;
    const fits = ([x, y], wide) => {
      const box = [x - 3, y - 8, x + wide + 3, y + 8];
      if (box[0] < 2 || box[2] > frame.width - 2 || box[1] < 2 || box[3] > frame.height - 2) return false;
      if (boxes.some((other) => overlap(box, other))) return false;
      if (!first && dots.some((other) => other.i !== i && overlap(box, other.box))) return false;
      boxes.push(box);
      return true;
    };
    // Where there is no room for the title, the code alone.
    for (const wide of [width, codeWidth]) {
      const places = [[sx + gap, sy], [sx - gap - wide, sy], [sx - wide / 2, sy - gap - 5], [sx - wide / 2, sy + gap + 5]];
      const place = places.find((one) => fits(one, wide));
      if (!place) continue;
      context.strokeStyle = frame.theme.halo;
      context.lineWidth = 4;
      context.fillStyle = first ? frame.theme.ink : frame.theme.label;
      this.#write(context, `600 12px ${FONT}`, code, ...place);
      if (wide === width) this.#write(context, `12px ${FONT}`, title, place[0] + codeWidth + 5, place[1]);
      return;
    }
  }

  #write(context, font, text, x, y) {
    context.font = font;
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  }

  #measured(context, i, code, title) {
    const key = `${i} ${title.length}`;
    if (!this.#widths.has(key)) {
      context.font = `600 12px ${FONT}`;
      const codeWidth = context.measureText(code).width;
      context.font = `12px ${FONT}`;
      this.#widths.set(key, [codeWidth, codeWidth + 5 + context.measureText(title).width]);
    }
    return this.#widths.get(key);
  }
}
