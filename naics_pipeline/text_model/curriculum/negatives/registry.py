"""Ways to draw negatives: one policy a file. A new one is a file, its keys in `curriculum.stage`, and a line here."""

from naics_pipeline.settings import quotas
from naics_pipeline.text_model.curriculum import stage
from naics_pipeline.text_model.curriculum.negatives.buckets import Buckets
from naics_pipeline.text_model.curriculum.negatives.candidates import Candidates
from naics_pipeline.text_model.curriculum.negatives.near_far import NearFar
from naics_pipeline.text_model.curriculum.negatives.nearest import Nearest
from naics_pipeline.text_model.curriculum.negatives.policy import NegativePolicy
from naics_pipeline.text_model.curriculum.negatives.tree_distance import TreeDistance


def policy_of(spec: stage.Negatives, candidates: Candidates, k: int) -> NegativePolicy:
    """The policy that a stage file names, drawing k negatives for a pair."""
    match spec:
        case stage.Buckets():
            return Buckets(candidates, quotas(spec.bucket_percentages, k))
        case stage.TreeDistance():
            return TreeDistance(candidates, spec, k)
        case stage.NearFar():
            return NearFar(candidates, spec, k)
        case stage.Mined() | stage.RouterGuided():
            return Nearest(candidates, spec, policy_of(spec.rest, candidates, k), k)
    raise AssertionError(spec)
