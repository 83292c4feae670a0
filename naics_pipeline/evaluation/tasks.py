"""What the places of codes are good for: families told by a classifier, found by clustering, voted by neighbours.

All is asked of the six-digit codes, so that a method has to know families that it does not hold as points of their own.
A task is defined by distances and feature vectors alone: of an embedding its tangent vectors at the origin, of a method
that compares texts by their cosine those vectors of which these are the inner products.
"""

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.model_selection import GroupKFold

from naics_pipeline.evaluation.distances import embedding_distances, tangent_vectors
from naics_pipeline.evaluation.layout import nearest_of
from naics_pipeline.evaluation.structure import EXACT_CODES, StructureScores, mean_of_known
from naics_pipeline.taxonomy.tree import LEVELS, Tree
from naics_pipeline.text_model.embeddings import Embeddings, aligned

FOLDS = 5
NEIGHBOURS = 5
CLASSIFIED = {"classify_sector": (2, 3), "classify_subsector": (3, 4)}
"""Task → digits of what is told, and of the families that are left out of the fit as a whole."""
FAMILIES = LEVELS[:-1]
_ALPHAS = np.logspace(-4, 3, 8)


def embedding_tasks(embeddings: Embeddings, tree: Tree, *, seed: int) -> StructureScores:
    """`task_scores` of an embedding, whatever the order of its rows; nothing above `EXACT_CODES` codes.

    Raises:
        ModelError: the file's codes are not those of the tree.
    """
    if len(tree) > EXACT_CODES:
        return StructureScores({}, {})
    points = aligned(embeddings, tree).points
    distances = embedding_distances(points, embeddings.curvature, embeddings.geometry)
    return task_scores(distances, tree, tangent_vectors(embeddings, tree), seed=seed)


def task_scores(distances: np.ndarray, tree: Tree, features: np.ndarray | None = None, *, seed: int) -> StructureScores:
    """classify_sector, classify_subsector; cluster_purity, _ari, _nmi and vote by digits, with scores by code.

    A metric is NaN where a taxonomy has no such families; clusterings have no scores by code.

    Args:
        distances: (N, N), in the order of the tree's codes.
        features: (N, d) of the same codes; None: the distances are 1 - cosine, and features are formed from them.
        seed: of the folds.
    """
    leaves = np.flatnonzero(tree.level == max(LEVELS))
    families = {digits: tree.ancestors()[leaves, digits - 2] for digits in LEVELS}
    among = distances[np.ix_(leaves, leaves)]
    vectors = _vectors_of(1 - among) if features is None else features[leaves]
    found = {
        task: classified(vectors, families[digits], families[left_out], seed=seed)
        for task, (digits, left_out) in CLASSIFIED.items()
    }
    found |= {f"vote_digits_{digits}": voted(among, families[digits]) for digits in FAMILIES}
    by_code = {}
    for name, values in found.items():
        by_code[name] = np.full(len(tree), np.nan)
        by_code[name][leaves] = values
    metrics = {name: mean_of_known(values) for name, values in found.items()}
    return StructureScores(metrics | cluster_metrics(among, families), by_code)


def _vectors_of(cosines: np.ndarray) -> np.ndarray:
    """(n, n) vectors whose inner products are these, but for what rounding left below zero of the spectrum."""
    value, vector = np.linalg.eigh(cosines)
    return vector * np.sqrt(value.clip(min=0))


def classified(features: np.ndarray, families: np.ndarray, left_out: np.ndarray, *, seed: int) -> np.ndarray:
    """(n,) whether a ridge classifier tells each code's family, fitted without its nearer relatives.

    All codes of one value of `left_out` are in one fold, so that a sector is told for subsectors that the fit never
    saw. A code whose family has no others is NaN. The penalty is chosen within the fit.

    Args:
        features: (n, d).
        families: (n,) what is to be told.
        left_out: (n,) parts of these families.
    """
    hit = np.full(len(families), np.nan)
    groups = np.unique(left_out)
    parts = np.array([len(np.unique(left_out[families == family])) for family in families])
    if len(groups) < 2:
        return hit
    # One scale for all features: the penalties are then of the same size for every method.
    scaled = features / max(float(np.sqrt((features**2).sum(axis=1).mean())), 1e-12)
    folds = GroupKFold(min(FOLDS, len(groups)), shuffle=True, random_state=seed)
    for seen, unseen in folds.split(scaled, groups=left_out):
        if len(np.unique(families[seen])) < 2:
            continue
        model = RidgeClassifierCV(alphas=_ALPHAS).fit(scaled[seen], families[seen])
        known = unseen[(parts[unseen] > 1) & np.isin(families[unseen], families[seen])]
        if known.size:
            hit[known] = model.predict(scaled[known]) == families[known]
    return hit


def voted(distances: np.ndarray, families: np.ndarray) -> np.ndarray:
    """(n,) whether the family that most of the five nearest belong to is the code's own; of equal ones the nearer.

    A code that is alone in its family is NaN.

    Args:
        distances: (n, n); the diagonal is not read.
        families: (n,).
    """
    n, k = len(families), min(NEIGHBOURS, len(families) - 1)
    if k < 1:
        return np.full(n, np.nan)
    of_nearest = families[nearest_of(distances, k)]
    votes = (of_nearest[:, :, None] == of_nearest[:, None, :]).sum(axis=2)
    winner = np.take_along_axis(of_nearest, votes.argmax(axis=1)[:, None], axis=1)[:, 0]
    _, place, size = np.unique(families, return_inverse=True, return_counts=True)
    return np.where(size[place] > 1, winner == families, np.nan)


def cluster_metrics(distances: np.ndarray, families: dict[int, np.ndarray]) -> dict[str, float]:
    """Average linkage of the codes against their families at each level above: purity of the dendrogram, ARI, NMI.

    For the latter two the dendrogram is cut into as many clusters as there are families.

    Args:
        distances: (n, n), symmetric with a zero diagonal.
        families: digits → (n,).
    """
    joined = linkage(squareform(distances, checks=False), method="average") if len(distances) > 1 else None
    found: dict[str, float] = {}
    for digits in FAMILIES:
        truth = np.unique(families[digits], return_inverse=True)[1]
        purity = ari = nmi = float("nan")
        # One family alone, or every code one of its own, is found by any clustering.
        if joined is not None and 1 < truth.max(initial=0) + 1 < len(truth):
            cut = fcluster(joined, truth.max() + 1, criterion="maxclust")
            purity = dendrogram_purity(joined, truth)
            ari, nmi = adjusted_rand_score(truth, cut), normalized_mutual_info_score(truth, cut)
        values = {"purity": purity, "ari": ari, "nmi": nmi}
        found |= {f"cluster_{name}_digits_{digits}": float(value) for name, value in values.items()}
    return found


def dendrogram_purity(joined: np.ndarray, families: np.ndarray) -> float:
    """Over all pairs of one family: how pure the smallest cluster is that holds both (Heller & Ghahramani, 2005).

    Args:
        joined: (n - 1, 4) as scipy's `linkage` gives it.
        families: (n,) numbers from 0, at least one of them of two codes.
    """
    n = len(families)
    count = np.zeros((2 * n - 1, families.max() + 1))
    count[np.arange(n), families] = 1
    pure = pairs = 0.0
    for cluster, (left, right) in enumerate(joined[:, :2].astype(np.int64), start=n):
        count[cluster] = count[left] + count[right]
        met = count[left] * count[right]
        pure += float(met @ count[cluster]) / float(count[cluster].sum())
        pairs += float(met.sum())
    return pure / pairs
