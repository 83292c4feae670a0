// The hyperbolic plane in Poincaré's disk: a point is a complex number x + iy inside the unit circle.

/** z → (a z + b) / (conj(b) z + conj(a)) with |a|² − |b|² = 1: a motion of the plane that keeps distances and sides. */
class Isometry {
  constructor(ax = 1, ay = 0, bx = 0, by = 0) {
    // Rounding would add up over a long drag.
    const scale = 1 / Math.sqrt(ax * ax + ay * ay - bx * bx - by * by);
    this.ax = ax * scale;
    this.ay = ay * scale;
    this.bx = bx * scale;
    this.by = by * scale;
  }

  /** The translation along a line through the centre that takes the centre to (x, y). */
  static translation(x, y) {
    return new Isometry(1, 0, x, y);
  }

  static rotation(angle) {
    return new Isometry(Math.cos(angle / 2), Math.sin(angle / 2), 0, 0);
  }

  /** The translation that takes p to q: t with (p + t) / (1 + conj(t) p) = q. */
  static taking(p, q) {
    const dx = q[0] - p[0], dy = q[1] - p[1];
    const mx = q[0] * p[0] - q[1] * p[1], my = q[0] * p[1] + q[1] * p[0];
    const denominator = 1 - (p[0] * p[0] + p[1] * p[1]) * (q[0] * q[0] + q[1] * q[1]);
    return Isometry.translation((dx + mx * dx + my * dy) / denominator, (dy + my * dx - mx * dy) / denominator);
  }

  /** First this, then the other. */
  then(next) {
    return new Isometry(
      next.ax * this.ax - next.ay * this.ay + next.bx * this.bx + next.by * this.by,
      next.ax * this.ay + next.ay * this.ax - next.bx * this.by + next.by * this.bx,
      next.ax * this.bx - next.ay * this.by + next.bx * this.ax + next.by * this.ay,
      next.ax * this.by + next.ay * this.bx - next.bx * this.ay + next.by * this.ax,
    );
  }

  apply(x, y) {
    const ux = this.ax * x - this.ay * y + this.bx, uy = this.ax * y + this.ay * x + this.by;
    const vx = this.bx * x + this.by * y + this.ax, vy = this.bx * y - this.by * x - this.ay;
    const length = vx * vx + vy * vy;
    return [(ux * vx + uy * vy) / length, (uy * vx - ux * vy) / length];
  }

  /** Many points at once, into arrays of the caller's. */
  applyAll(xs, ys, outX, outY) {
    const { ax, ay, bx, by } = this;
    for (let i = 0; i < xs.length; i++) {
      const x = xs[i], y = ys[i];
      const ux = ax * x - ay * y + bx, uy = ax * y + ay * x + by;
      const vx = bx * x + by * y + ax, vy = bx * y - by * x - ay;
      const length = vx * vx + vy * vy;
      outX[i] = (ux * vx + uy * vy) / length;
      outY[i] = (uy * vx - ux * vy) / length;
    }
  }
}

/** Of the way from the centre to p, taken in hyperbolic distance, the point after this share. */
function partWay(p, share) {
  const length = Math.hypot(p[0], p[1]);
  if (length < 1e-12) return [0, 0];
  const part = Math.tanh(share * Math.atanh(Math.min(length, 1 - 1e-15))) / length;
  return [p[0] * part, p[1] * part];
}

/** The circle that carries the geodesic between two points, or null where it is all but straight. */
function geodesicCircle(x1, y1, x2, y2) {
  const cross = 2 * (x1 * y2 - y1 * x2);
  if (Math.abs(cross) < 1e-9) return null;
  const s1 = 1 + x1 * x1 + y1 * y1, s2 = 1 + x2 * x2 + y2 * y2;
  const x = (s1 * y2 - s2 * y1) / cross, y = (s2 * x1 - s1 * x2) / cross;
  const square = x * x + y * y - 1;
  return square > 0 ? { x, y, radius: Math.sqrt(square) } : null;
}

/** Adds the geodesic between two points of the disk to a path; a line where nobody could see the difference. */
function traceGeodesic(path, x1, y1, x2, y2, frame) {
  const { cx, cy, scale } = frame;
  const startX = cx + scale * x1, startY = cy + scale * y1, endX = cx + scale * x2, endY = cy + scale * y2;
  path.moveTo(startX, startY);
  const chord = Math.hypot(endX - startX, endY - startY);
  const circle = chord > 6 ? geodesicCircle(x1, y1, x2, y2) : null;
  if (!circle || (chord * chord) / (8 * circle.radius * scale) < 0.4) {
    path.lineTo(endX, endY);
    return;
  }
  const from = Math.atan2(y1 - circle.y, x1 - circle.x), to = Math.atan2(y2 - circle.y, x2 - circle.x);
  const turn = ((to - from + 3 * Math.PI) % (2 * Math.PI)) - Math.PI;
  path.arc(cx + scale * circle.x, cy + scale * circle.y, scale * circle.radius, from, to, turn < 0);
}
