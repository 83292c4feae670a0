"""One round of messages: where its output lies, what reaches its parameters, what it does not depend on."""

import geoopt
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data

from naics_pipeline.geometry import lorentz
from naics_pipeline.graph_model.graph import CHILD, PARENT, SELF, SIBLING, build_graph
from naics_pipeline.graph_model.layers import LorentzAttention
from naics_pipeline.settings import Graph
from naics_pipeline.taxonomy.tree import Tree

CODES = ["11", "111", "1111", "1112", "11111", "111110", "31", "311", "321", "3111", "3211"]
DIM = 6


@pytest.fixture
def tree() -> Tree:
    return Tree.from_codes(CODES)


@pytest.fixture
def graph(tree: Tree) -> Data:
    return build_graph(tree, Graph())


@pytest.fixture
def layer() -> LorentzAttention:
    torch.manual_seed(0)
    layer = LorentzAttention(DIM, attention_dim=4, dropout=0.0, max_radius=8.0).double()
    torch.nn.init.normal_(layer.linear.weight, std=0.5)
    return layer


def _tangent(nodes: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(nodes, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _messages(tree: Tree, graph: Data) -> dict[tuple[str, str], tuple[int, float]]:
    sender, receiver = (tree.codes[side.numpy()] for side in graph.edge_index)
    values = zip(graph.role.tolist(), graph.edge_weight.tolist(), strict=True)
    return dict(zip(zip(sender.tolist(), receiver.tolist(), strict=True), values, strict=True))


def test_messages_run_both_ways_with_role_and_weight(tree: Tree, graph: Data) -> None:
    messages = _messages(tree, graph)
    assert len(messages) == graph.num_edges
    assert messages["11", "111"] == (PARENT, 1.0)
    assert messages["111", "11"] == (CHILD, 1.0)
    assert messages["1111", "1112"] == messages["1112", "1111"] == (SIBLING, Graph().sibling_weight)
    assert messages["111", "111"] == (SELF, 1.0)
    assert messages["11", "11111"][1] == Graph().great_grandparent_weight
    assert ("11", "111110") not in messages
    assert ("11", "31") not in messages


def test_manufacturing_is_one_node(tree: Tree, graph: Data) -> None:
    messages = _messages(tree, graph)
    assert messages["31", "321"] == (PARENT, 1.0)
    assert messages["311", "321"][0] == SIBLING


def test_a_relation_of_weight_0_sends_nothing(tree: Tree) -> None:
    assert SIBLING not in build_graph(tree, Graph(sibling_weight=0)).role


@pytest.mark.parametrize("curvature", [0.1, 1.0, 10.0])
def test_messages_are_the_weighted_centroid_of_points_on_the_manifold(
    layer: LorentzAttention, graph: Data, curvature: float
) -> None:
    c = torch.tensor(curvature, dtype=torch.float64)
    v = _tangent(len(CODES))
    attention = layer.attention(v, graph)
    sender, receiver = graph.edge_index
    space = geoopt.Lorentz(k=1 / c)
    mapped = layer.linear(v)
    mapped = (
        mapped
        * (8 / c.sqrt() * torch.tanh(mapped.norm(dim=-1, keepdim=True) * c.sqrt() / 8))
        / mapped.norm(dim=-1, keepdim=True)
    )
    points = space.expmap0(torch.nn.functional.pad(mapped, (1, 0)))
    heard = torch.stack(
        [(attention[receiver == i, None] * points[sender[receiver == i]]).sum(0) for i in range(len(v))]
    )
    centroid = heard / (-c * space.inner(None, heard, heard)).sqrt().unsqueeze(-1)
    expected = v + torch.sigmoid(layer.share) * (space.logmap0(centroid)[:, 1:] - v)
    torch.testing.assert_close(layer(v, graph, c), expected, rtol=1e-6, atol=1e-8)


def test_attention_sums_to_one_and_counts_the_edge_weight_once(layer: LorentzAttention, graph: Data) -> None:
    v = _tangent(len(CODES))
    receiver = graph.edge_index[1]
    before = layer.attention(v, graph)
    sums = torch.zeros(len(CODES), dtype=torch.float64).index_add(0, receiver, before)
    torch.testing.assert_close(sums, torch.ones_like(sums))

    edge = int((graph.role == SIBLING).nonzero()[0])
    loop = int(((graph.role == SELF) & (receiver == receiver[edge])).nonzero()[0])
    odds = before[edge] / before[loop]
    graph.edge_weight[edge] *= 0.5
    after = layer.attention(v, graph)
    torch.testing.assert_close(after[edge] / after[loop], odds / 2)


def test_renumbering_the_codes_renumbers_the_output(layer: LorentzAttention, graph: Data) -> None:
    v, c = _tangent(len(CODES)), torch.tensor(1.0, dtype=torch.float64)
    order = torch.randperm(len(v), generator=torch.Generator().manual_seed(2))
    place = torch.argsort(order)
    renumbered = Data(
        num_nodes=len(v), edge_index=place[graph.edge_index], role=graph.role, edge_weight=graph.edge_weight
    )
    torch.testing.assert_close(layer(v[order], renumbered, c), layer(v, graph, c)[order])


def test_the_radius_stays_free(layer: LorentzAttention, graph: Data) -> None:
    """A normalisation before the exponential map would give near and far codes one radius."""
    torch.nn.init.eye_(layer.linear.weight)
    c = torch.tensor(1.0, dtype=torch.float64)
    direction = torch.nn.functional.normalize(_tangent(len(CODES))[:1], dim=-1).expand(len(CODES), -1)
    near, far = (lorentz.exp0(layer(r * direction, graph, c)) for r in (0.5, 5.0))
    assert float(lorentz.radius(near).max()) < 0.6
    assert float(lorentz.radius(far).min()) > 4


def test_every_parameter_and_the_curvature_get_a_gradient(layer: LorentzAttention, graph: Data) -> None:
    c = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    out = layer(_tangent(len(CODES)), graph, c)
    (out * _tangent(len(CODES), 2.0)).sum().backward()
    for name, parameter in [*layer.named_parameters(), ("curvature", c)]:
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name
