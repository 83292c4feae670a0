"""Four channel vectors to one point of the embedding space."""

import torch
from torch import Tensor, nn

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model
from naics_pipeline.text_model.tokens import CHANNELS


class MixtureOfExperts(nn.Module):
    """Two-layer experts of which a softmax gate gives each row its top k; Shazeer et al. (2017).

    Inputs (n, width_in); returns (n, width_out) and the gate's probabilities (n, experts).
    """

    def __init__(self, width_in: int, width: int, width_out: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.width_out = width_out
        self.gate = nn.Linear(width_in, experts)
        # A gate that starts undecided lets every expert learn before it chooses.
        nn.init.normal_(self.gate.weight, std=1e-3)
        nn.init.zeros_(self.gate.bias)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width_out)) for _ in range(experts)
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
    """Channel vectors to points.

    An absent channel is a learned vector of its own. `fusion: linear` replaces the experts by one linear map, and
    `geometry: euclidean` leaves the tangent vector as it is; both are ablations.
    """

    def __init__(self, width: int, settings: Model) -> None:
        super().__init__()
        self.settings = settings
        joint = width * len(CHANNELS)
        self.absent = nn.Parameter(torch.randn(len(CHANNELS), width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(settings.fusion_dropout)
        self.experts = (
            MixtureOfExperts(joint, settings.expert_dim, settings.expert_dim, settings.experts, settings.top_k)
            if settings.fusion == "moe"
            else None
        )
        self.projection = nn.Linear(joint if self.experts is None else settings.expert_dim, settings.embedding_dim)
        curvature = torch.tensor(settings.curvature).log()
        self.log_curvature = nn.Parameter(curvature, requires_grad=settings.learn_curvature)

    @property
    def curvature(self) -> Tensor:
        """c of a space with sectional curvature -c, kept in [0.1, 10] with a gradient inside."""
        return self.log_curvature.exp().clamp(0.1, 10.0)

    def forward(self, channels: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Points of n codes or texts.

        Args:
            channels: (n, 4, width) channel vectors; rows of absent channels are ignored.
            present: (n, 4) bool.
        Returns: points (n, d + 1), or (n, d) in the Euclidean ablation, and the gate's probabilities (n, experts).
        """
        with torch.autocast(channels.device.type, enabled=False):
            known = torch.where(present.unsqueeze(-1), self.norm(channels.float()), self.absent)
            x = self.dropout(known.flatten(1))
            probabilities = None
            if self.experts is not None:
                x, probabilities = self.experts(x)
                x = self.dropout(x)
            tangent = lorentz.bound_radius(self.projection(x), self.settings.max_radius)
            if self.settings.geometry == "euclidean":
                return tangent, probabilities
            return lorentz.exp0(tangent, curvature=self.curvature), probabilities

    def distances(self, u: Tensor, v: Tensor) -> Tensor:
        """Distances of the geometry between all rows of u (n, ·) and of v (m, ·): (n, m)."""
        if self.settings.geometry == "euclidean":
            squared = (u.unsqueeze(-2) - v.unsqueeze(-3)).square().sum(-1) if len(u) * len(v) < 4096 else _squared(u, v)
            return squared.clamp_min(1e-12).sqrt()
        return lorentz.pairwise_distance(u, v, curvature=self.curvature)

    def radii(self, points: Tensor) -> Tensor:
        """Distance from the origin, (n,)."""
        if self.settings.geometry == "euclidean":
            return lorentz.norm(points).squeeze(-1)
        return lorentz.radius(points, curvature=self.curvature)


def _squared(u: Tensor, v: Tensor) -> Tensor:
    return u.square().sum(-1, keepdim=True) + v.square().sum(-1) - 2 * u @ v.mT


def drop_channels(present: Tensor, probability: float) -> Tensor:
    """Channel dropout: each present channel goes with this probability, but a row never loses all; (n, 4) bool."""
    kept = present & (torch.rand(present.shape, device=present.device) >= probability)
    return torch.where(kept.any(-1, keepdim=True), kept, present)
