"""The vectors of a code's channels, or of a text, to one point of the embedding space."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model
from naics_pipeline.text_model.tokens import CHANNELS

# Edges from the root to a six-digit code, with the first one longer: radius of a leaf where an edge has length 1.
_LEAF_RADIUS = 5.3
CURVATURES = (0.1, 10.0)
RIDGE = 3.0
"""Of the covariance within codes, in units of its mean variance."""
_ROWS = 65_536
"""Texts whose vectors are in float64 at once."""


class MixtureOfExperts(nn.Module):
    """Two-layer experts of which a softmax gate gives each row its top k; Shazeer et al. (2017).

    It gives zeros before it is trained. Inputs (n, width_in); returns (n, width_out) and the gate's probabilities
    (n, experts).
    """

    def __init__(self, width_in: int, width: int, width_out: int, experts: int, top_k: int, dropout: float) -> None:
        super().__init__()
        self.top_k = top_k
        self.width_out = width_out
        self.gate = nn.Linear(width_in, experts)
        # A gate that starts undecided lets every expert learn before it chooses.
        nn.init.normal_(self.gate.weight, std=1e-3)
        nn.init.zeros_(self.gate.bias)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width_in, width), nn.GELU(), nn.Dropout(dropout), _zeros(nn.Linear(width, width_out))
            )
            for _ in range(experts)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = self.gate(x).softmax(-1)
        top, chosen = probabilities.topk(self.top_k, dim=-1)
        weight = torch.zeros_like(probabilities).scatter(-1, chosen, top / top.sum(-1, keepdim=True))
        out = x.new_zeros(len(x), self.width_out)
        for position, expert in enumerate(self.experts):
            rows = weight[:, position].nonzero().squeeze(-1)
            out = out.index_add(0, rows, weight[rows, position, None] * expert(x[rows]))
        return out, probabilities


class Fusion(nn.Module):
    """Vectors of texts to points.

    Direction and radius of the tangent vector at the origin are formed apart. A text's direction is that of its vector,
    projected onto discriminant directions (`start_from`), and all texts have one radius: the space ranks texts as the
    cosine of their projections does. With the projection's length as radius it starts 5 to 12 points of top-1 below,
    and a projection that learns loses on descriptions by business owners what it gains on index entries.

    A code's direction is that of the weighted mean of its channels, projected likewise. What the experts make of all
    four, and an offset of the code's own, are added to it, and one further output of both widens or narrows the radius.
    So codes may take their places in the tree while texts stay where their words put them. To the experts an absent
    channel is a learned vector of its own. `fusion: linear` puts one linear map in their place, and `geometry:
    euclidean` leaves the tangent vector as it is; both are ablations.
    """

    def __init__(self, width: int, settings: Model) -> None:
        super().__init__()
        self.settings = settings
        joint = width * len(CHANNELS)
        self.log_share = nn.Parameter(torch.tensor([getattr(settings.shares, name) for name in CHANNELS]).log())
        self.projection = nn.Linear(width, settings.embedding_dim).requires_grad_(False)
        self.absent = nn.Parameter(torch.randn(len(CHANNELS), width))
        self.dropout = nn.Dropout(settings.fusion_dropout)
        self.experts: nn.Module = (
            MixtureOfExperts(
                joint,
                settings.expert_dim,
                settings.embedding_dim + 1,
                settings.experts,
                settings.top_k,
                settings.fusion_dropout,
            )
            if settings.fusion == "moe"
            else _zeros(nn.Linear(joint, settings.embedding_dim + 1))
        )
        self.log_radius = nn.Parameter(torch.tensor(_LEAF_RADIUS * settings.edge_length).log())
        self.log_text_radius = nn.Parameter(self.log_radius.detach().clone())
        curvature = torch.tensor(settings.curvature).log()
        self.log_curvature = nn.Parameter(curvature, requires_grad=settings.learn_curvature)

    @torch.no_grad()
    def start_from(self, vectors: Tensor, code: Tensor) -> None:
        """Makes the projection that onto the discriminant directions of vectors, scaled to a mean length of 1.

        Those that tell codes apart best against how texts of one code differ (Fisher, 1936; Rao, 1948), with a share of
        the identity in place of what few texts say (Friedman, 1989).

        Args:
            vectors: (n, width) of texts.
            code: (n,) index of the code of each.
        """
        vectors, code = vectors.detach().cpu(), code.cpu()
        mean, components = discriminant_directions(vectors, code, self.settings.embedding_dim)
        lengths = [((block - mean) @ components.T).norm(dim=1) for block in _exact(vectors)]
        components /= torch.cat(lengths).mean().clamp_min(1e-6)
        self.projection.weight.zero_()
        self.projection.bias.zero_()
        self.projection.weight[: len(components)] = components.to(self.projection.weight)
        self.projection.bias[: len(components)] = -(components @ mean).to(self.projection.bias)

    @property
    def curvature(self) -> Tensor:
        """c of a space with sectional curvature -c, kept in [0.1, 10]."""
        return lorentz.bounded(self.log_curvature.exp(), *CURVATURES)

    def forward(self, channels: Tensor, present: Tensor, offset: Tensor) -> tuple[Tensor, Tensor | None]:
        """Points of n codes.

        Args:
            channels: (n, 4, width) channel vectors; rows of absent channels are ignored.
            present: (n, 4) bool.
            offset: (n, d + 1), each code's own, of its direction and of the logarithm of its radius.
        Returns: points (n, d + 1), or (n, d) in the Euclidean ablation, and the gate's probabilities (n, experts).
        """
        with torch.autocast(channels.device.type, enabled=False):
            vectors = channels.float()
            said = self.projection(self.said(vectors, present))
            # Vectors of length 1 have entries of 1/√width: experts work on entries of about 1.
            x = torch.where(present.unsqueeze(-1), vectors * vectors.shape[-1] ** 0.5, self.absent)
            x = self.dropout(x.flatten(1))
            probabilities = None
            if isinstance(self.experts, MixtureOfExperts):
                further, probabilities = self.experts(x)
            else:
                further = self.experts(x)
            further = further + offset
            return self._at(said + further[:, :-1], self.log_radius + further[:, -1:]), probabilities

    def said(self, channels: Tensor, present: Tensor) -> Tensor:
        """What codes say as a whole, (n, width): the weighted mean of their channels; arguments as of `forward`."""
        share = self.log_share.exp() * present
        share = share / share.sum(-1, keepdim=True)
        return (share.unsqueeze(-1) * channels).sum(-2)

    def place_texts(self, vectors: Tensor) -> Tensor:
        """Points of texts with these vectors (n, width): (n, d + 1), or (n, d) in the Euclidean ablation."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self._at(self.projection(vectors.float()), self.log_text_radius)

    def text_directions(self, vectors: Tensor) -> Tensor:
        """Directions in which `place_texts` places texts with these vectors (n, width): unit vectors, (n, d)."""
        with torch.autocast(vectors.device.type, enabled=False):
            direction = self.projection(vectors.float())
            return direction / lorentz.norm(direction)

    def _at(self, direction: Tensor, log_radius: Tensor) -> Tensor:
        tangent = log_radius.exp() * direction / lorentz.norm(direction)
        if self.settings.geometry == "euclidean":
            return lorentz.bound_radius(tangent, self.settings.max_radius)
        curvature = self.curvature
        tangent = lorentz.bound_radius(tangent, self.settings.max_radius, curvature=curvature)
        return lorentz.exp0(tangent, curvature=curvature)

    def distances(self, u: Tensor, v: Tensor) -> Tensor:
        """Distances of the geometry between all rows of u (n, ·) and of v (m, ·): (n, m)."""
        if self.settings.geometry == "euclidean":
            squared = (u.unsqueeze(-2) - v.unsqueeze(-3)).square().sum(-1) if len(u) * len(v) < 4096 else _squared(u, v)
            return squared.clamp_min(1e-12).sqrt()
        return lorentz.pairwise_distance(u, v, curvature=self.curvature)

    def text_distances(self, u: Tensor, direction: Tensor) -> Tensor:
        """Distances of the geometry between all texts u (n, ·), placed, and others, of which the direction is enough.

        Args:
            u: of `place_texts`.
            direction: (m, d), of `text_directions`.
        Returns: (n, m).
        """
        if self.settings.geometry == "euclidean":
            radius = lorentz.norm(u)
            return 2 * radius * lorentz.half_sine(u / radius, direction)
        return lorentz.sphere_distance(u, direction, curvature=self.curvature)

    def paired_distances(self, u: Tensor, v: Tensor) -> Tensor:
        """Distance of each row of u to the same row of v, both (n, ·): (n,)."""
        if self.settings.geometry == "euclidean":
            return lorentz.norm(u - v).squeeze(-1)
        return lorentz.distance(u, v, curvature=self.curvature)

    def radii(self, points: Tensor) -> Tensor:
        """Distance from the origin, (n,)."""
        if self.settings.geometry == "euclidean":
            return lorentz.norm(points).squeeze(-1)
        return lorentz.radius(points, curvature=self.curvature)


def discriminant_directions(vectors: Tensor, code: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The mean (width,) and directions (dim, width), or fewer where the width is less; the one that tells most first.

    Args:
        vectors: (n, width).
        code: (n,) the class of each.
    Returns: float64.
    """
    width = vectors.shape[1]
    count = torch.bincount(code).double()
    summed, total = torch.zeros(len(count), width).double(), torch.zeros(width, width).double()
    for block, of_block in zip(_exact(vectors), code.split(_ROWS), strict=True):
        summed.index_add_(0, of_block, block)
        total += block.mT @ block
    mean = summed.sum(0) / len(vectors)
    middle = summed / count.clamp_min(1).unsqueeze(-1) - mean
    between = (middle.mT * count) @ middle
    # The scatter around the mean is that within codes and that between them.
    within = total - len(vectors) * mean.outer(mean) - between
    within += RIDGE * within.trace().clamp_min(1e-6) / width * torch.eye(width, dtype=within.dtype)
    value, vector = torch.linalg.eigh(within)
    whiten = (vector * value.rsqrt()) @ vector.mT
    _, found = torch.linalg.eigh(whiten @ between @ whiten)
    return mean, (whiten @ found.flip(1)[:, :dim]).mT.contiguous()


def _exact(vectors: Tensor) -> Iterator[Tensor]:
    """Blocks of rows in float64: of millions of texts it fits for some at a time."""
    return (block.double() for block in vectors.split(_ROWS))


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _squared(u: Tensor, v: Tensor) -> Tensor:
    return u.square().sum(-1, keepdim=True) + v.square().sum(-1) - 2 * u @ v.mT


def drop_channels(present: Tensor, probability: float) -> Tensor:
    """Channel dropout: each present channel goes with this probability, but a row never loses all; (n, 4) bool."""
    kept = present & (torch.rand(present.shape, device=present.device) >= probability)
    return torch.where(kept.any(-1, keepdim=True), kept, present)
