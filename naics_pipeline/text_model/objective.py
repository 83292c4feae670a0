"""The objective: a weighted sum of losses, with the scalars that are learned beside the model."""

import torch
from torch import Tensor, nn

from naics_pipeline.geometry import lorentz
from naics_pipeline.settings import Model
from naics_pipeline.settings import Objective as Weights
from naics_pipeline.text_model.losses import LOSSES
from naics_pipeline.text_model.losses.view import View

TEMPERATURES = (0.01, 10.0)


class Objective(nn.Module):
    """Σ w_t L_t over the losses whose weight is above 0; it knows views alone, no tables, epochs or trainer.

    Args:
        weights: of the terms, and their constants.
        model: where the edge length starts, and how many experts a row has.
    """

    def __init__(self, weights: Weights, model: Model) -> None:
        super().__init__()
        self.weights, self.top_k = weights, model.top_k
        self.log_scale = nn.Parameter(torch.tensor(model.edge_length).log())
        self.log_temperature = nn.Parameter(
            torch.tensor(weights.temperature).log(), requires_grad=weights.learn_temperature
        )
        self.log_query_temperature = nn.Parameter(
            torch.tensor(weights.query_temperature).log(), requires_grad=weights.learn_query_temperature
        )

    @property
    def scale(self) -> Tensor:
        """Length of an edge of the tree in the space."""
        return self.log_scale.exp()

    @property
    def temperature(self) -> Tensor:
        """τ of the contrastive term; without a bound a learned one would fall to 0, where the loss has no minimum."""
        return lorentz.bounded(self.log_temperature.exp(), *TEMPERATURES)

    @property
    def query_temperature(self) -> Tensor:
        """τ of the query term."""
        return lorentz.bounded(self.log_query_temperature.exp(), *TEMPERATURES)

    def weight(self, name: str) -> float:
        """Of one term."""
        value: float = getattr(self.weights, name)
        return value

    def forward(self, view: View) -> dict[str, Tensor]:
        """Every term with a weight above 0 that the view has something for, unweighted."""
        terms = {}
        for name, loss in LOSSES.items():
            if self.weight(name) and (value := loss(view, self)) is not None:
                terms[name] = value
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms."""
        return torch.stack([self.weight(name) * term for name, term in terms.items()]).sum()

    def logged(self) -> dict[str, float]:
        """The learned scalars."""
        return {name: float(getattr(self, name)) for name in ("scale", "temperature", "query_temperature")}
