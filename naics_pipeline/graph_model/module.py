"""The graph model: text points and free offsets in, refined points out."""

import math

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.layers import LorentzAttention
from naics_pipeline.settings import Graph

MIN_CURVATURE, MAX_CURVATURE = 0.1, 10.0


class HyperbolicGCN(nn.Module):
    """Layers of `LorentzAttention` over tangent vectors of the codes, in one space of learned curvature.

    What is learned are the layers, the curvature that they share, and an offset of each code's tangent vector: never
    coordinates on the hyperboloid, which a step of Adam would leave. A code's offset moves all that lies below it too,
    so that a code without one follows its parent, and few steps move a whole sector. With `radii` level the codes of a
    level lie on one sphere, whose radius is free (the mean of what the layers give them): which of two codes of a level
    is nearer to a point is then a matter of directions alone, whatever that point's own radius, and a child lies
    farther out than its parent by construction. With `radii` free each code keeps the radius that the layers give it.

    Args:
        features: tangent vectors at the origin of the text model's points, shape (N, d).
        curvature: where the learned one starts; kept in [0.1, 10].
        ancestors: `Tree.ancestors`, (N, levels) indices, the code itself among them, -1 for none.
        level: (N,) int64, number of digits.
        with_offset: (N,) bool, which codes have an offset of their own.
    """

    features: Tensor
    ancestors: Tensor
    level: Tensor
    with_offset: Tensor

    def __init__(
        self,
        features: Tensor,
        curvature: float,
        ancestors: Tensor,
        level: Tensor,
        with_offset: Tensor,
        settings: Graph,
    ) -> None:
        super().__init__()
        nodes, dim = features.shape
        self.register_buffer("ancestors", torch.where(ancestors < 0, nodes, ancestors))
        self.register_buffer("level", level)
        self.max_radius = settings.max_radius
        self.radii = settings.radii
        self.offset_dropout = settings.offset_dropout
        self.register_buffer("features", features)
        self.register_buffer("with_offset", with_offset.unsqueeze(-1))
        self.offsets = nn.Parameter(torch.zeros(nodes, dim))
        self.layers = nn.ModuleList(
            LorentzAttention(dim, settings.attention_dim, settings.dropout, settings.max_radius)
            for _ in range(settings.layers)
        )
        share = math.log(curvature / MIN_CURVATURE) / math.log(MAX_CURVATURE / MIN_CURVATURE)
        self.curvature_logit = nn.Parameter(torch.logit(torch.tensor(share), eps=1e-3))

    @property
    def curvature(self) -> Tensor:
        """c > 0 of the refined space, strictly inside its bounds, so that its gradient never vanishes."""
        return MIN_CURVATURE * (MAX_CURVATURE / MIN_CURVATURE) ** torch.sigmoid(self.curvature_logit)

    def forward(self, graph: Data) -> Tensor:
        """Refined points, (N, d + 1)."""
        curvature = self.curvature
        v = self.features + self._offsets()
        for layer in self.layers:
            v = layer(v, graph, curvature)
        if self.radii == "level":
            v = self._on_spheres(v)
        return lorentz.exp0(lorentz.bound_radius(v, self.max_radius, curvature=curvature), curvature=curvature)

    def _offsets(self) -> Tensor:
        present = self.with_offset
        if self.training:
            # Whole offsets are dropped, so that the layers learn to place a code that has none.
            present = present & (torch.rand_like(self.offsets[:, :1]) >= self.offset_dropout)
        own = torch.where(present, self.offsets, torch.zeros_like(self.offsets))
        return nn.functional.pad(own, (0, 0, 0, 1))[self.ancestors].sum(1)

    def _on_spheres(self, v: Tensor) -> Tensor:
        """Tangent vectors (N, d), each as long as those of its level are on average."""
        length = lorentz.norm(v)
        total = length.new_zeros(int(self.level.max()) + 1).index_add(0, self.level, length.squeeze(-1))
        mean = total / torch.bincount(self.level).clamp_min(1)
        return v / length * mean[self.level].unsqueeze(-1)
