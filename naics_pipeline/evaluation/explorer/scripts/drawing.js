// What is drawn on the canvas, layer by layer. A scene holds places in the disk (x, y), already moved, and a frame
// {cx, cy, scale, width, height} that brings the disk onto the canvas.

const EDGE_WIDTH = [0, 0, 1.6, 1.5, 1.2, 1, 0.8];
const LEAST_RADIUS = [4, 0, 6, 3.2, 2.1, 1.4, 1];
const FULL_RADIUS = [6, 0, 11, 10, 9, 8, 7.5];
const MOST_RADIUS = 15;
const LEAST_EDGE = 0.8;
/** Edges are most of what drawing costs: so many leave time for 30 frames a second. */
const MOVING_EDGES = 1800;

/** The tree's edges as geodesics; what is too short to be seen or outside the canvas is left out. */
function drawEdges(context, scene, frame) {
  const { x, y, order, parent, level, colour, palette, size } = scene;
  const { cx, cy, scale, width, height } = frame, least = frame.moving ? longEnough(scene, frame) : LEAST_EDGE;
  let stroke = -1, thick = -1;
  context.globalAlpha = 0.5;
  context.beginPath();
  for (let k = 0; k < size; k++) {
    const i = order[k], above = parent[i] < 0 ? size : parent[i];
    const dx = scale * (x[i] - x[above]), dy = scale * (y[i] - y[above]);
    if (dx * dx + dy * dy < least * least) continue;
    const sx = cx + scale * x[i], sy = cy + scale * y[i], px = sx - dx, py = sy - dy;
    if ((sx < 0 && px < 0) || (sy < 0 && py < 0) || (sx > width && px > width) || (sy > height && py > height)) continue;
    if (colour[i] !== stroke || level[i] !== thick) {
      context.stroke();
      context.beginPath();
      stroke = colour[i];
      thick = level[i];
      context.strokeStyle = palette[stroke];
      context.lineWidth = EDGE_WIDTH[thick] * frame.thin;
    }
    traceGeodesic(context, x[above], y[above], x[i], y[i], frame);
  }
  context.stroke();
  context.globalAlpha = 1;
}

/** The length in pixels, by powers of 1.25, that at most `MOVING_EDGES` edges exceed. */
function longEnough(scene, frame) {
  const { x, y, parent, size } = scene, counts = new Uint32Array(64), perStep = 0.5 / Math.log(1.25);
  const unit = (frame.scale / LEAST_EDGE) ** 2;
  for (let i = 0; i < size; i++) {
    const above = parent[i] < 0 ? size : parent[i];
    const dx = x[i] - x[above], dy = y[i] - y[above], square = unit * (dx * dx + dy * dy);
    if (square >= 1) counts[Math.min((Math.log(square) * perStep) | 0, 63)]++;
  }
  let step = 63;
  for (let total = counts[63]; step > 0 && total + counts[step - 1] <= MOVING_EDGES; step--) total += counts[step - 1];
  return LEAST_EDGE * 1.25 ** step;
}

/** Radius of a code's dot in pixels: that of a disk of the plane, kept within what can be seen and told apart. */
function dotRadius(scene, frame, i) {
  const level = i === scene.size ? 0 : scene.level[i];
  const near = 1 - scene.x[i] * scene.x[i] - scene.y[i] * scene.y[i];
  const radius = FULL_RADIUS[level] * near * frame.swell;
  return Math.min(Math.max(radius, LEAST_RADIUS[level] * frame.least), MOST_RADIUS);
}

/** All codes as dots; where many small ones share a pixel, one is drawn. */
function drawDots(context, scene, frame) {
  const { x, y, order, colour, palette, size } = scene;
  const { cx, cy, scale, width, height } = frame;
  const { taken } = frame, row = Math.ceil(width);
  taken.fill(0);
  let fill = -1;
  context.beginPath();
  // Upper levels come last, over what lies beneath them.
  for (let k = size - 1; k >= 0; k--) {
    const i = order[k], sx = cx + scale * x[i], sy = cy + scale * y[i];
    if (sx < -MOST_RADIUS || sy < -MOST_RADIUS || sx > width + MOST_RADIUS || sy > height + MOST_RADIUS) continue;
    const radius = dotRadius(scene, frame, i);
    if (radius < 2) {
      if (sx < 0 || sy < 0 || sx > width || sy > height) continue;
      const cell = (sy | 0) * row + (sx | 0);
      if (taken[cell]) continue;
      taken[cell] = 1;
    }
    if (colour[i] !== fill) {
      context.fill();
      context.beginPath();
      fill = colour[i];
      context.fillStyle = palette[fill];
    }
    if (radius < 1.5) context.fillRect(sx - radius, sy - radius, 2 * radius, 2 * radius);
    else {
      context.moveTo(sx + radius, sy);
      context.arc(sx, sy, radius, 0, 2 * Math.PI);
    }
  }
  context.fill();
}

/** Held-out texts: a dot beside the code that is found, a cross where that is another than the right one. */
function drawTexts(context, texts, scene, frame, onlyWrong) {
  const { cx, cy, scale, width, height } = frame;
  const { textX, textY } = scene;
  for (const wrong of onlyWrong ? [true] : [false, true]) {
    context.beginPath();
    for (let i = 0; i < textX.length; i++) {
      if ((texts.found[i] !== texts.right[i]) !== wrong) continue;
      const sx = cx + scale * textX[i], sy = cy + scale * textY[i];
      if (sx < 0 || sy < 0 || sx > width || sy > height) continue;
      const near = 1 - textX[i] * textX[i] - textY[i] * textY[i];
      const r = Math.min(Math.max(4 * near * frame.swell, 0.8), 4);
      if (wrong) {
        context.moveTo(sx - r, sy - r);
        context.lineTo(sx + r, sy + r);
        context.moveTo(sx - r, sy + r);
        context.lineTo(sx + r, sy - r);
      } else context.rect(sx - r / 2, sy - r / 2, r, r);
    }
    context.lineWidth = 1.3;
    context.strokeStyle = frame.theme.wrong;
    context.fillStyle = frame.theme.right;
    if (wrong) context.stroke();
    else context.fill();
  }
}

/** The selected code: its way up to the root, lines to the nearest codes of the full space, a ring. */
function drawSelection(context, scene, frame, path, neighbours) {
  const { x, y, size } = scene;
  const selected = path[path.length - 1];
  context.strokeStyle = frame.theme.ink;
  context.lineWidth = 2.2;
  context.beginPath();
  [size, ...path].reduce((above, i) => {
    traceGeodesic(context, x[above], y[above], x[i], y[i], frame);
    return i;
  });
  context.stroke();
  context.setLineDash([5, 4]);
  context.lineWidth = 1.4;
  context.strokeStyle = frame.theme.accent;
  context.beginPath();
  for (const { code } of neighbours) traceGeodesic(context, x[selected], y[selected], x[code], y[code], frame);
  context.stroke();
  context.setLineDash([]);
  for (const { code } of neighbours) drawRing(context, scene, frame, code, frame.theme.accent, 1.6);
  drawRing(context, scene, frame, selected, frame.theme.ink, 2.4);
}

function drawRing(context, scene, frame, i, colour, thickness) {
  context.beginPath();
  const radius = dotRadius(scene, frame, i) + 3;
  context.arc(frame.cx + frame.scale * scene.x[i], frame.cy + frame.scale * scene.y[i], radius, 0, 2 * Math.PI);
  context.strokeStyle = colour;
  context.lineWidth = thickness;
  context.stroke();
}

/** The disk itself, and round its rim an arc for each sector. */
function drawDisk(context, frame, sectors) {
  context.beginPath();
  context.arc(frame.cx, frame.cy, frame.scale, 0, 2 * Math.PI);
  context.fillStyle = frame.theme.disk;
  context.fill();
  context.lineWidth = 4;
  for (const { from, to, colour } of sectors) {
    context.beginPath();
    context.arc(frame.cx, frame.cy, frame.scale + 4, from, to);
    context.strokeStyle = colour;
    context.stroke();
  }
}
