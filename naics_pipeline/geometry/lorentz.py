"""The Lorentz (hyperboloid) model of hyperbolic space, as pure functions.

Points of the space with sectional curvature -c are (x0, x) with -x0² + |x|² = -1/c and x0 > 0, time coordinate
first. Distances are formed from radius and direction, not from the ambient inner product: in float32
acosh(-c <u, v>) loses every digit from radius 8 on, the polar form stays right to radius 12.
"""

from typing import Any

import torch
from torch import Tensor

Curvature = Tensor | float


def _sqrt_curvature(curvature: Curvature, like: Tensor) -> Tensor:
    return torch.as_tensor(curvature, dtype=like.dtype, device=like.device).sqrt()


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny ** 0.5


def norm(v: Tensor) -> Tensor:
    """Euclidean norm over the last dimension, kept as size 1, with gradient 0 instead of NaN at the zero vector."""
    return v.square().sum(-1, keepdim=True).clamp_min(_tiny(v) ** 2).sqrt()


def inner(u: Tensor, v: Tensor) -> Tensor:
    """Lorentzian inner product -u0 v0 + <u, v>, shape (...) for (..., d + 1); Nickel & Kiela (2018), eq. 1."""
    return (u[..., 1:] * v[..., 1:]).sum(-1) - u[..., 0] * v[..., 0]


def exp0(v: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Exponential map at the origin: exp₀(v) = (cosh(√c|v|)/√c, sinh(√c|v|) v / (√c|v|)).

    Args:
        v: tangent vectors at the origin without their time coordinate (it is 0), shape (..., d).
        curvature: c > 0 of a space with sectional curvature -c.
    Returns: points, shape (..., d + 1); d(origin, exp₀(v)) = |v|.
    """
    root = _sqrt_curvature(curvature, v)
    length = norm(v)
    scaled = root * length
    return torch.cat([torch.cosh(scaled) / root, torch.sinh(scaled) / scaled * v], dim=-1)


def log0(x: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Inverse of `exp0`: points (..., d + 1) to tangent vectors at the origin (..., d)."""
    root = _sqrt_curvature(curvature, x)
    scaled = root * norm(x[..., 1:])
    return torch.asinh(scaled) / scaled * x[..., 1:]


def radius(x: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """d(origin, x) = asinh(√c|x|)/√c, shape (...) for points (..., d + 1)."""
    root = _sqrt_curvature(curvature, x)
    return torch.asinh(root * norm(x[..., 1:])).squeeze(-1) / root


def bound_radius(v: Tensor, max_radius: float, *, curvature: Curvature = 1.0) -> Tensor:
    """Shortens tangent vectors (..., d) smoothly so that |v| < R/√c: r = R/√c tanh(√c |v| / R).

    √c times the radius, not the radius, decides which digits are left of a distance.
    """
    bound = max_radius / _sqrt_curvature(curvature, v)
    length = norm(v)
    return v * (bound * torch.tanh(length / bound) / length)


class _Bounded(torch.autograd.Function):
    """`bounded`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.low, ctx.high = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        outwards = ((value <= ctx.low) & (gradient > 0)) | ((value >= ctx.high) & (gradient < 0))
        return gradient.masked_fill(outwards, 0), None, None


def bounded(value: Tensor, low: float, high: float) -> Tensor:
    """`clamp` whose gradient vanishes only where a step of descent would lead further out: what is learned comes back.

    The gradient of `clamp` is zero beyond a bound whichever way it points, and so is that of a value that rounding put
    there.
    """
    clamped: Tensor = _Bounded.apply(value, low, high)
    return clamped


def _polar(x: Tensor, curvature: Curvature) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    root = _sqrt_curvature(curvature, x)
    length = norm(x[..., 1:])
    sinh_r = root * length
    return torch.asinh(sinh_r), sinh_r, x[..., 1:] / length, root


def _from_squared_half_sinh(q: Tensor, root: Tensor, guard: Tensor | float) -> Tensor:
    # sqrt has an infinite slope at 0: below the guard the distance is 0 and its gradient 0, never NaN.
    positive = q > guard
    d = 2 * torch.asinh(torch.where(positive, q, torch.ones_like(q)).sqrt()) / root
    return torch.where(positive, d, torch.zeros_like(d))


def distance(u: Tensor, v: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Geodesic distance between points of the hyperboloid.

    d(u, v) = acosh(-c <u, v>) / √c, Nickel & Kiela (2018), eq. 5, computed in its polar form
    2 asinh √(sinh²((r₁-r₂)/2) + sinh r₁ sinh r₂ |û₁-û₂|²/4) / √c.

    Args:
        u, v: points, shape (..., d + 1), time coordinate first; broadcast against each other.
        curvature: c > 0 of a space with sectional curvature -c.
    Returns: shape (...), same unit as 1/√c; 0 for identical points, with a finite gradient.
    """
    r_u, sinh_u, unit_u, root = _polar(u, curvature)
    r_v, sinh_v, unit_v, _ = _polar(v, curvature)
    chord = (unit_u - unit_v).square().sum(-1)
    q = torch.sinh((r_u - r_v) / 2).square().squeeze(-1) + (sinh_u * sinh_v).squeeze(-1) * chord / 4
    return _from_squared_half_sinh(q, root, _tiny(q))


def pairwise_distance(u: Tensor, v: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Distances between every row of u and every row of v by one matrix product.

    The product needs float64 to keep small distances, so it runs there whatever the input's type; a device
    without float64 (MPS) forms the differences row block by row block instead.

    Args:
        u, v: points, shapes (..., n, d + 1) and (..., m, d + 1).
        curvature: c > 0.
    Returns: shape (..., n, m), in the input's type.
    """
    if u.device.type == "mps":
        return torch.cat(
            [distance(rows.unsqueeze(-2), v.unsqueeze(-3), curvature=curvature) for rows in u.split(64, dim=-2)],
            dim=-2,
        )
    kind = u.dtype
    r_u, sinh_u, unit_u, root = _polar(u.double(), curvature)
    r_v, sinh_v, unit_v, _ = _polar(v.double(), curvature)
    return _from_cosine(r_u - r_v.mT, sinh_u * sinh_v.mT, unit_u @ unit_v.mT, root).to(kind)


def sphere_distance(u: Tensor, direction: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Distances between points of one radius r, some of them given by direction: 2 asinh(sinh(√c r) sin(θ/2)) / √c.

    The angle alone is left to form, which the input's type holds well enough where not the smallest distances count:
    a quarter of the time of `pairwise_distance`, and many points need no coordinates for a few to be held against them.

    Args:
        u: points of one radius, shape (n, d + 1).
        direction: of the others, unit vectors, shape (m, d).
        curvature: c > 0.
    Returns: shape (n, m), in the input's type; below 1e-3 it is rounding.
    """
    _, sinh_u, unit, root = _polar(u, curvature)
    return 2 / root * torch.asinh(sinh_u * half_sine(unit, direction))


def half_sine(u: Tensor, v: Tensor) -> Tensor:
    """sin(θ/2) of the angles between unit vectors (n, d) and (m, d): (n, m); no less than the root of rounding."""
    return torch.addmm(u.new_tensor(0.5), u, v.mT, alpha=-0.5).clamp_min(torch.finfo(u.dtype).eps).sqrt()


def listed_distance(x: Tensor, rows: Tensor, others: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Distances between some points and a list of others for each, as `pairwise_distance` forms them.

    What is of one point is computed once for each, however many lists it is in.

    Args:
        x: points, (n, d + 1).
        rows, others: indices of points, (m,) and (m, k).
        curvature: c > 0.
    Returns: shape (m, k), in the input's type.
    """
    if x.device.type == "mps":
        return distance(x[rows].unsqueeze(1), x[others], curvature=curvature)
    r, sinh, unit, root = _polar(x.double(), curvature)
    r, sinh = r.squeeze(-1), sinh.squeeze(-1)
    cosine = (unit[others] @ unit[rows].unsqueeze(-1)).squeeze(-1)
    apart = r[rows].unsqueeze(-1) - r[others]
    return _from_cosine(apart, sinh[rows].unsqueeze(-1) * sinh[others], cosine, root).to(x.dtype)


def _from_cosine(apart: Tensor, sinh_product: Tensor, cosine: Tensor, root: Tensor) -> Tensor:
    """Distances in float64, of differences of radii, products of their sinh, and the cosine of the directions."""
    q = torch.sinh(apart / 2).square() + sinh_product * ((1 - cosine).clamp_min(0) / 2)
    rounding = 4 * torch.finfo(q.dtype).eps * sinh_product.detach() + _tiny(q)
    return _from_squared_half_sinh(q, root, rounding)


def distance_of_inner(product: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """The distance that a Lorentzian inner product stands for: 2 asinh √((-c <u, v> - 1)/2) / √c.

    It falls as the product grows, so of many points the nearest is found among the products. Of float64 points of
    radius r/√c it is right to about 1e-8 eʳ, which is felt only where two points are nearly one.

    Args:
        product: `inner` of pairs of points, any shape, float64.
        curvature: c > 0.
    """
    root = _sqrt_curvature(curvature, product)
    return 2 * torch.asinh(((-(root**2) * product - 1) / 2).clamp_min(0).sqrt()) / root


def centroid(x: Tensor, weights: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Weighted Lorentz centroid Σ w x / √(-c⟨Σ w x, Σ w x⟩), Law et al. (2019), eq. 11.

    Args:
        x: points, shape (..., n, d + 1).
        weights: non-negative with a positive sum, shape (..., n).
    Returns: points, shape (..., d + 1).
    """
    return project((weights.unsqueeze(-1) * x).sum(-2), curvature=curvature)


def project(s: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Scales a timelike vector onto the hyperboloid, s / √(-c⟨s, s⟩), shape (..., d + 1).

    The time coordinate is then recomputed from the others, so that the constraint holds to rounding.
    """
    c = torch.as_tensor(curvature, dtype=s.dtype, device=s.device)
    scale = (-c * inner(s, s)).clamp_min(_tiny(s)).sqrt().unsqueeze(-1)
    return from_spatial(s[..., 1:] / scale, curvature=c)


def from_spatial(x: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """The point whose spatial coordinates are x: x0 = √(1/c + |x|²), shape (..., d) to (..., d + 1)."""
    c = torch.as_tensor(curvature, dtype=x.dtype, device=x.device)
    return torch.cat([(1 / c + x.square().sum(-1, keepdim=True)).sqrt(), x], dim=-1)


def violation(x: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """How far points leave the hyperboloid, |c⟨x, x⟩ + 1|, shape (...) for (..., d + 1)."""
    c = torch.as_tensor(curvature, dtype=x.dtype, device=x.device)
    return (c * inner(x, x) + 1).abs()


def to_poincare(x: Tensor, *, curvature: Curvature = 1.0) -> Tensor:
    """Stereographic projection to the Poincaré ball of radius 1/√c: x / (1 + √c x0), (..., d + 1) to (..., d)."""
    root = _sqrt_curvature(curvature, x)
    return x[..., 1:] / (1 + root * x[..., :1])
