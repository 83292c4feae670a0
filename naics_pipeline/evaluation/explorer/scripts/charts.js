// The pictures below the disk, as SVG: they take their colours from the page and say their numbers when pointed at.

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const titled = (text) => svg("title", {}, text);
const svgText = (x, y, text, more = {}) => svg("text", { x, y, ...more }, text);

/** A picture with its heading, and axes' names; returns the SVG to draw on. */
function chart(place, heading, width, height, described) {
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": described });
  place.append(element("figure", {}, element("figcaption", { textContent: heading }), drawn));
  return drawn;
}

/** Round numbers of which about so many lie between 0 and the largest. */
function ticks(largest, about = 5) {
  const raw = largest / about, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw);
  return Array.from({ length: Math.floor(largest / step + 1e-9) + 1 }, (_, k) => +(k * step).toPrecision(6));
}

function yAxis(drawn, box, largest, label, format = (value) => value) {
  for (const value of ticks(largest)) {
    const y = box.bottom - ((box.bottom - box.top) * value) / largest;
    drawn.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y }));
    drawn.append(svgText(box.left - 6, y + 4, format(value), { "text-anchor": "end" }));
  }
  const middle = (box.top + box.bottom) / 2;
  drawn.append(svgText(12, middle, label, { "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }));
}

function xLabel(drawn, box, label) {
  drawn.append(svgText((box.left + box.right) / 2, box.bottom + 36, label, { "text-anchor": "middle" }));
}

/** Distance against tree distance: a column for each number of edges, the darker the more of its pairs lie there. */
function densityChart(place, space) {
  const { rows, largest } = space.density;
  const drawn = chart(place, space.label, 460, 340, `${space.label}: embedding distance by distance in the tree`);
  const box = { left: 48, right: 452, top: 10, bottom: 296 };
  yAxis(drawn, box, largest, "embedding distance");
  const step = (box.right - box.left) / Math.max(...rows.map((row) => row.step)), height = box.bottom - box.top;
  for (const row of rows) {
    const x = box.left + step * (row.step - 1), most = Math.max(...row.counts);
    const total = row.counts.reduce((sum, count) => sum + count, 0), bin = height / row.counts.length;
    row.counts.forEach((count, k) => {
      if (!count) return;
      const low = (largest * k) / row.counts.length, high = (largest * (k + 1)) / row.counts.length;
      const says = `${counted(count)} of ${counted(total)} pairs ${row.step} edges apart: ${low.toFixed(2)}–${high.toFixed(2)}`;
      const shape = { class: "heat", x: x + 2, width: step - 4, y: box.bottom - bin * (k + 1), height: bin + 0.3 };
      drawn.append(svg("rect", { ...shape, "fill-opacity": (0.08 + 0.92 * Math.sqrt(count / most)).toFixed(3) }, titled(says)));
    });
    const y = box.bottom - (height * row.median) / largest;
    drawn.append(svg("line", { class: "median", x1: x + 2, x2: x + step - 2, y1: y, y2: y }, titled(`median ${row.median}`)));
    drawn.append(svgText(x + step / 2, box.bottom + 17, row.step, { "text-anchor": "middle" }));
  }
  xLabel(drawn, box, "distance in the tree (edges)");
}

/** Radius by level: from the 5th to the 95th hundredth a line, the middle half a box, the median a bar. */
function radiusChart(place, space) {
  const drawn = chart(place, space.label, 460, 340, `${space.label}: distance from the origin by level`);
  const box = { left: 48, right: 452, top: 10, bottom: 296 };
  const largest = Math.max(...space.levels.map((row) => row.quantiles[6])) * 1.04;
  yAxis(drawn, box, largest, "distance from the origin");
  const step = (box.right - box.left) / space.levels.length;
  const y = (value) => box.bottom - ((box.bottom - box.top) * value) / largest;
  space.levels.forEach(({ level, count, quantiles: q }, k) => {
    const x = box.left + step * (k + 0.5);
    const says = `${counted(count)} codes of ${level} digits: median ${q[3]}, middle half ${q[2]}–${q[4]}, all ${q[0]}–${q[6]}`;
    drawn.append(
      svg("g", {}, titled(says),
        svg("line", { class: "whisker", x1: x, x2: x, y1: y(q[1]), y2: y(q[5]) }),
        svg("rect", { class: "heat", "fill-opacity": 0.35, x: x - 22, width: 44, y: y(q[4]), height: Math.max(y(q[2]) - y(q[4]), 1) }),
        svg("line", { class: "median", x1: x - 22, x2: x + 22, y1: y(q[3]), y2: y(q[3]) }),
        ...[q[0], q[6]].map((value) => svg("circle", { class: "end", cx: x, cy: y(value), r: 2 }))),
      svgText(x, box.bottom + 17, level, { "text-anchor": "middle" }),
    );
  });
  xLabel(drawn, box, "digits of the code");
}

/** Sectors taken for one another; a cell's share is of the texts of its row. */
function confusionChart(place, model, picked) {
  const { sectors, confusion } = model.texts, n = sectors.length, cell = 24, left = 44, top = 34;
  const heading = "Sector of the right code (rows) and of the code found (columns)";
  const drawn = chart(place, heading, left + n * cell + 4, top + n * cell + 4, "Confusion between sectors");
  confusion.forEach((row, r) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    drawn.append(svgText(left - 6, top + cell * (r + 0.66), sectors[r], { "text-anchor": "end" }));
    drawn.append(svgText(left + cell * (r + 0.5), top - 8, sectors[r], { "text-anchor": "middle" }));
    row.forEach((count, c) => {
      const x = left + cell * c, y = top + cell * r, share = total ? count / total : 0;
      const names = [sectors[r], sectors[c]].map((code) => model.name(model.index.get(code)));
      const says = `${counted(count)} of ${counted(total)} texts of ${names[0]} find a code of ${names[1]}`;
      const kind = r === c ? "heat" : "heat wrong", opacity = count ? 0.1 + 0.9 * Math.sqrt(share) : 0.03;
      const group = svg("g", {}, titled(says));
      group.append(svg("rect", { class: kind, "fill-opacity": opacity.toFixed(3), x: x + 0.5, y: y + 0.5, width: cell - 1, height: cell - 1 }));
      if (count) {
        const number = { "text-anchor": "middle", class: opacity > 0.62 ? "on" : "small" };
        group.append(svgText(x + cell / 2, y + cell * 0.64, count, number));
      }
      if (count && r !== c) {
        group.classList.add("link");
        group.addEventListener("click", () => picked(sectors[r], sectors[c]));
      }
      drawn.append(group);
    });
  });
}

/** Reliability: of the answers given such a probability, how many are right; below, how many answers there are. */
function reliabilityChart(place, level, bins) {
  const heading = `${level} digits · error ${shown(bins.error, 3)}`;
  const drawn = chart(place, heading, 300, 330, `Reliability at ${level} digits`);
  const box = { left: 62, right: 292, top: 8, bottom: 222 };
  yAxis(drawn, box, 1, "share right", (value) => `${Math.round(100 * value)} %`);
  const width = (box.right - box.left) / bins.count.length, height = box.bottom - box.top, most = Math.max(...bins.count, 1);
  drawn.append(svg("line", { class: "ideal", x1: box.left, x2: box.right, y1: box.bottom, y2: box.top }));
  bins.count.forEach((count, k) => {
    const x = box.left + width * k, bar = 44 * Math.sqrt(count / most);
    const says = `${counted(count)} texts with probability ${shown(bins.probability[k])}: ${shown(100 * bins.right[k], 0)} % right`;
    if (!count) return;
    const at = box.left + (box.right - box.left) * bins.probability[k], y = box.bottom - height * bins.right[k];
    drawn.append(
      svg("g", {}, titled(says),
        svg("rect", { class: "heat", "fill-opacity": 0.4, x: x + 1, width: width - 2, y, height: box.bottom - y }),
        svg("circle", { class: "dot", cx: at, cy: y, r: 3 }),
        svg("rect", { class: "heat", "fill-opacity": 0.8, x: x + 1, width: width - 2, y: 300 - bar, height: bar })),
    );
  });
  for (const value of [0, 0.5, 1]) {
    const x = box.left + (box.right - box.left) * value;
    drawn.append(svgText(x, box.bottom + 16, `${100 * value} %`, { "text-anchor": value === 1 ? "end" : "middle" }));
  }
  drawn.append(svgText((box.left + box.right) / 2, 320, "probability of the first answer", { "text-anchor": "middle" }));
}
