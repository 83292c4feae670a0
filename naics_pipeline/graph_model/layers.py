"""Message passing between points of the hyperboloid."""

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.graph import ROLES


class LorentzAttention(MessagePassing):
    """One round of messages: linear map on tangent vectors, attention, weighted Lorentz centroid, residual.

    Each code hears its neighbours' mapped points x_j = exp₀(W v_j) and moves, by a learned share per dimension, from
    its own tangent vector v_i towards log₀ of their centroid Σ α_ij x_j / √(-c⟨Σ α x, Σ α x⟩). The attention is
    α_ij ∝ w_ij exp(a · LeakyReLU(A v_j + B v_i + role_ij)) over the neighbours of i (Brody et al., 2022), w_ij being
    the weight of the edge. W starts as the identity and the share as small, so that an untrained layer smooths gently.
    Nothing normalises the vectors: how far a code lies from the origin is its own affair, up to the bound.
    """

    def __init__(self, dim: int, attention_dim: int, dropout: float, max_radius: float) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.max_radius = max_radius
        self.linear = nn.Linear(dim, dim)
        self.sender = nn.Linear(dim, attention_dim)
        self.receiver = nn.Linear(dim, attention_dim, bias=False)
        self.role = nn.Embedding(ROLES, attention_dim)
        self.score = nn.Linear(attention_dim, 1, bias=False)
        self.share = nn.Parameter(torch.full((dim,), -2.5))
        self.dropout = nn.Dropout(dropout)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        nn.init.normal_(self.role.weight, std=0.1)

    def forward(self, v: Tensor, graph: Data, curvature: Tensor) -> Tensor:
        """Tangent vectors at the origin, (N, d) to (N, d)."""
        mapped = lorentz.bound_radius(self.linear(v), self.max_radius, curvature=curvature)
        points = lorentz.exp0(mapped, curvature=curvature)
        attention = self.attention(v, graph)
        heard = self.propagate(graph.edge_index, points=points, attention=attention)
        centroid = lorentz.project(heard, curvature=curvature)
        return v + torch.sigmoid(self.share) * self.dropout(lorentz.log0(centroid, curvature=curvature) - v)

    def attention(self, v: Tensor, graph: Data) -> Tensor:
        """Weights of the messages, (E,); those that reach one code sum to 1."""
        sender, receiver = graph.edge_index
        mixed = self.sender(v)[sender] + self.receiver(v)[receiver] + self.role(graph.role)
        score = self.score(nn.functional.leaky_relu(mixed, 0.2)).squeeze(-1)
        return softmax(score + graph.edge_weight.log(), receiver, num_nodes=graph.num_nodes)

    def message(self, points_j: Tensor, attention: Tensor) -> Tensor:
        return attention.unsqueeze(-1) * points_j
