// The picture: a canvas that is dragged (a translation of the plane), zoomed, pointed at and flown over.

const LEAST_ZOOM = 0.7, MOST_ZOOM = 60;
const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");

class Disk {
  /** @param told {hovered(target, x, y), picked(code), textPicked(text)} */
  constructor(canvas, model, told) {
    Object.assign(this, { canvas, model, told });
    this.context = canvas.getContext("2d");
    this.labels = new InnerLabels();
    this.motion = new Isometry();
    this.zoom = 1;
    this.selected = -1;
    this.hovered = null;
    this.textsShown = "none";
    this.moving = false;
    this.scene = { size: model.size, level: model.level, parent: model.parent };
    this.setSpace(model.spaces[0]);
    new ResizeObserver(() => this.#resize()).observe(canvas);
    new Gestures(canvas, this);
  }

  setSpace(space) {
    this.space = space;
    Object.assign(this.scene, { x: new Float64Array(space.x.length), y: new Float64Array(space.x.length) });
    const texts = space.textX ? space.textX.length : 0;
    Object.assign(this.scene, { textX: new Float64Array(texts), textY: new Float64Array(texts) });
    this.sectors = this.#wedges();
    this.draw();
  }

  setColours({ palette, index }) {
    const { level } = this.model;
    const order = Array.from({ length: this.model.size }, (_, i) => i);
    order.sort((a, b) => level[a] - level[b] || index[a] - index[b]);
    Object.assign(this.scene, { palette, colour: index, order: Int32Array.from(order) });
    this.draw();
  }

  setSectorColours({ palette, index }) {
    this.sectorColour = (root) => palette[index[root]];
    this.draw();
  }

  setTexts(which) {
    this.textsShown = which;
    this.draw();
  }

  /** Marks a code at once and brings it to the middle along the geodesic. */
  select(i) {
    this.selected = i;
    this.draw();
    if (i >= 0) this.flyTo(this.space.x[i], this.space.y[i]);
  }

  flyTo(x, y) {
    const start = this.motion, at = start.apply(x, y);
    const distance = 2 * Math.atanh(Math.min(Math.hypot(...at), 1 - 1e-12));
    this.#animate(Math.min(250 + 130 * distance, 1100), (share) => {
      const [tx, ty] = partWay(at, share);
      this.motion = start.then(Isometry.translation(-tx, -ty));
    });
  }

  /** Back to the root in the middle, upright. */
  home() {
    const start = this.motion, zoom = this.zoom, at = start.apply(0, 0);
    const back = start.then(Isometry.translation(-at[0], -at[1]));
    const turn = 2 * Math.atan2(back.ay, back.ax);
    const angle = turn > Math.PI ? turn - 2 * Math.PI : turn < -Math.PI ? turn + 2 * Math.PI : turn;
    this.#animate(700, (share) => {
      const [tx, ty] = partWay(at, share);
      this.motion = start.then(Isometry.translation(-tx, -ty)).then(Isometry.rotation(-angle * share));
      this.zoom = zoom ** (1 - share);
    });
  }

  /** Moves the plane so that what lies at p comes to q; both are places in the disk. */
  drag(p, q) {
    this.motion = this.motion.then(Isometry.taking(p, q));
    this.#stir();
  }

  /** Magnifies; what lies at (px, py) on the canvas stays there. */
  magnify(factor, px, py) {
    const before = this.toDisk(px, py);
    this.zoom = Math.min(Math.max(this.zoom * factor, LEAST_ZOOM), MOST_ZOOM);
    const after = this.toDisk(px, py);
    if (Math.hypot(...before) < 0.999 && Math.hypot(...after) < 0.999) {
      this.motion = this.motion.then(Isometry.taking(before, after));
    }
    this.#stir();
  }

  toDisk(px, py) {
    const { cx, cy, scale } = this.#frame();
    return [(px - cx) / scale, (py - cy) / scale];
  }

  point(px, py, reach) {
    const found = this.#under(px, py, reach);
    const same = found?.code === this.hovered?.code && found?.text === this.hovered?.text;
    this.hovered = found;
    this.canvas.classList.toggle("pointing", Boolean(found));
    this.told.hovered(found, px, py);
    if (!same) this.draw();
  }

  pick(px, py, reach) {
    const found = this.#under(px, py, reach);
    if (found?.text !== undefined) this.told.textPicked(found.text);
    else if (found) this.told.picked(found.code);
  }

  draw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.#paint();
    });
  }

  refreshTheme() {
    this.theme = undefined;
    this.draw();
  }

  #animate(duration, step) {
    cancelAnimationFrame(this.flight);
    if (STILL.matches) duration = 0;
    const start = performance.now();
    const frame = (now) => {
      const share = duration ? Math.min(Math.max((now - start) / duration, 0), 1) : 1;
      // Slow at both ends: where one comes from and where one arrives can be followed.
      step(share < 0.5 ? 4 * share ** 3 : 1 - (2 - 2 * share) ** 3 / 2);
      this.#stir();
      if (share < 1) this.flight = requestAnimationFrame(frame);
    };
    this.flight = requestAnimationFrame(frame);
  }

  stop() {
    cancelAnimationFrame(this.flight);
  }

  /** Draws what moves with less detail, and all of it once it rests. */
  #stir() {
    this.moving = true;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.moving = false;
      this.draw();
    }, 140);
    this.draw();
  }

  #resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    this.width = width;
    this.height = height;
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
    this.taken = new Uint8Array((Math.ceil(width) + 40) * (Math.ceil(height) + 40));
    this.#paint();
  }

  #frame() {
    const { width, height, zoom } = this;
    const roomy = width > height * 1.05 && width > 620;
    const base = Math.max((roomy ? Math.min(height / 2 - 34, width / 2 - 158) : Math.min(width, height) / 2 - 30), 60);
    this.theme ??= Object.fromEntries(
      ["ink", "label", "halo", "disk", "accent", "right", "wrong"].map((name) => [name, themed(name)]),
    );
    return {
      width, height, zoom, roomy,
      moving: this.moving,
      cx: width / 2,
      cy: height / 2,
      scale: base * zoom,
      swell: Math.sqrt(zoom) * Math.min(base / 380, 1.1),
      least: Math.min(base / 340, 1),
      thin: Math.min(Math.max(base / 340, 0.6), 1),
      taken: this.taken,
      theme: this.theme,
    };
  }

  #paint() {
    if (!this.width || !this.scene.order) return;
    const { context, model, space, scene } = this, frame = this.#frame();
    this.motion.applyAll(space.x, space.y, scene.x, scene.y);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, frame.width, frame.height);
    const sectors = this.#rim();
    drawDisk(context, frame, sectors);
    drawEdges(context, scene, frame);
    drawDots(context, scene, frame);
    drawRing(context, scene, frame, scene.size, frame.theme.label, 1.5);
    if (this.textsShown !== "none" && space.textX) {
      this.motion.applyAll(space.textX, space.textY, scene.textX, scene.textY);
      drawTexts(context, model.texts, scene, frame, this.textsShown === "wrong");
    }
    this.#paintMarks(context, frame, sectors);
    this.canvas.dataset.selected = this.selected < 0 ? "" : model.code[this.selected];
  }

  #paintMarks(context, frame, sectors) {
    const { model, scene } = this;
    const wanted = new Set();
    const neighbours = this.selected < 0 ? [] : this.space.neighboursOf(this.selected);
    if (this.selected >= 0) {
      drawSelection(context, scene, frame, model.path(this.selected), neighbours);
      wanted.add(this.selected);
    }
    if (this.hovered?.code !== undefined) {
      drawRing(context, scene, frame, this.hovered.code, frame.theme.ink, 1.6);
      wanted.add(this.hovered.code);
    }
    if (this.shownText !== undefined) this.#paintText(context, frame);
    const preferred = new Set(neighbours.map(({ code }) => code).filter((code) => !wanted.has(code)));
    this.labels.draw(context, model, scene, frame, wanted, preferred, drawRimLabels(context, frame, sectors));
  }

  /** From the code that a text finds to the one that is right. */
  #paintText(context, frame) {
    const { scene } = this, { found, right } = this.model.texts, i = this.shownText;
    context.beginPath();
    traceGeodesic(context, scene.x[found[i]], scene.y[found[i]], scene.x[right[i]], scene.y[right[i]], frame);
    context.strokeStyle = frame.theme.wrong;
    context.lineWidth = 2.2;
    context.stroke();
    drawRing(context, scene, frame, right[i], frame.theme.right, 2.4);
  }

  /** Each sector's part of the rim as it stands now: [from, to] in the canvas's angles. */
  #rim() {
    const turned = (angle) => {
      const [x, y] = this.motion.apply(Math.cos(angle), -Math.sin(angle));
      return Math.atan2(y, x);
    };
    return this.sectors.map(({ root, low, high }) => {
      const to = turned(low), from = turned(high);
      const extent = (((to - from) % (2 * Math.PI)) + 2 * Math.PI) % (2 * Math.PI);
      const { code, title } = this.model, colour = this.sectorColour(root);
      return { code: code[root], title: title[root], colour, from, to: from + extent, middle: from + extent / 2, extent };
    });
  }

  #wedges() {
    const { model, space } = this;
    const wedges = new Map(model.roots.map((root) => [root, { root, low: Infinity, high: -Infinity }]));
    for (let i = 0; i < model.size; i++) {
      const wedge = wedges.get(model.sector[i]);
      wedge.low = Math.min(wedge.low, space.angle[i] - 0.004);
      wedge.high = Math.max(wedge.high, space.angle[i] + 0.004);
    }
    return [...wedges.values()];
  }

  /** The code or the text nearest to a place on the canvas: {code} or {text}. */
  #under(px, py, reach) {
    const { scene } = this, frame = this.#frame();
    const closest = (xs, ys, count, fits) => {
      let best = reach * reach, found = -1;
      for (let i = 0; i < count; i++) {
        const dx = frame.cx + frame.scale * xs[i] - px, dy = frame.cy + frame.scale * ys[i] - py;
        const square = dx * dx + dy * dy;
        if (square < best && fits(i)) [best, found] = [square, i];
      }
      return [found, best];
    };
    const [code, near] = closest(scene.x, scene.y, scene.size, () => true);
    if (this.textsShown !== "none" && this.space.textX) {
      const { right, found } = this.model.texts, all = this.textsShown === "all";
      const [text, nearer] = closest(scene.textX, scene.textY, scene.textX.length, (i) => all || right[i] !== found[i]);
      if (text >= 0 && nearer < near) return { text };
    }
    return code < 0 ? null : { code };
  }
}

/** Pointers, wheel and keys on the canvas. */
class Gestures {
  #pointers = new Map();

  constructor(canvas, disk) {
    Object.assign(this, { canvas, disk });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => disk.point(-1e6, -1e6, 0));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #down(event) {
    this.disk.stop();
    this.canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#at(event));
    this.strayed = this.#pointers.size > 1 ? Infinity : 0;
  }

  #move(event) {
    const now = this.#at(event), before = this.#pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") this.disk.point(...now, 14);
      return;
    }
    this.strayed += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (this.strayed < 4) return;
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) this.#pinch(before, now, other);
    else this.#slide(before, now);
    this.#pointers.set(event.pointerId, now);
  }

  #slide(before, now) {
    const p = this.disk.toDisk(...before), q = this.disk.toDisk(...now);
    // Outside the disk there is nothing to hold.
    const held = ([x, y]) => {
      const length = Math.hypot(x, y);
      return length < 0.96 ? [x, y] : [(0.96 * x) / length, (0.96 * y) / length];
    };
    this.disk.drag(held(p), held(q));
    this.disk.told.hovered(null);
  }

  #pinch(before, now, other) {
    const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
    const span = (p) => Math.max(Math.hypot(p[0] - other[0], p[1] - other[1]), 1);
    this.disk.magnify(span(now) / span(before), ...middle);
    this.#slide([(before[0] + other[0]) / 2, (before[1] + other[1]) / 2], middle);
  }

  #up(event) {
    if (this.strayed < 4 && event.type === "pointerup") {
      this.disk.pick(...this.#at(event), event.pointerType === "mouse" ? 14 : 24);
    }
    this.#pointers.delete(event.pointerId);
  }

  #wheel(event) {
    event.preventDefault();
    this.disk.stop();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
    this.disk.magnify(Math.exp(-pixels * 0.0016), ...this.#at(event));
  }

  #key(event) {
    const { disk } = this, { model, selected } = disk;
    const step = 0.12 / disk.zoom, middle = [disk.width / 2, disk.height / 2];
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const siblings = selected >= 0 ? (model.parent[selected] < 0 ? model.roots : model.children[model.parent[selected]]) : [];
    const beside = (by) => siblings[(siblings.indexOf(selected) + by + siblings.length) % siblings.length];
    const kin = {
      p: () => model.parent[selected],
      c: () => (selected < 0 ? model.roots[0] : model.children[selected][0]),
      n: () => beside(1),
      b: () => beside(-1),
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) disk.drag([0, 0], moves[event.key]);
    else if (event.key === "+" || event.key === "=") disk.magnify(1.25, ...middle);
    else if (event.key === "-") disk.magnify(0.8, ...middle);
    else if (event.key === "0" || event.key === "Home") disk.home();
    else if (event.key === "Escape") disk.told.picked(-1);
    else if (event.key in kin) {
      const next = kin[event.key]();
      if (next >= 0) disk.told.picked(next);
    } else return;
    event.preventDefault();
  }
}
