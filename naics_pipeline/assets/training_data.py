"""What training reads: all triplets, and the texts as tokens."""

import dagster as dg
import polars as pl

from naics_pipeline.assets.common import (
    asset,
    columns,
    content_version,
    data_version,
    logger,
    place,
    rows,
    version,
)
from naics_pipeline.config import Config
from naics_pipeline.storage import Store


@asset(
    group_name="training_data",
    kinds={"duckdb", "polars", "parquet"},
    code_version=version(1),
    metadata=columns(
        anchor_code=("string", "the code compared with"),
        positive_code=("string", "another code of the anchor's sector"),
        negative_code=("string", "a code farther from the anchor than the positive"),
        hardness=("u8", "1 another sector ... 7 hardly farther, 8 anchor and negative exclude one another"),
        excluded=("bool", "anchor and negative exclude one another"),
        unrelated=("bool", "the negative is in another sector"),
        positive_distance=("f32", "distance(anchor, positive)"),
        negative_distance=("f32", "distance(anchor, negative)"),
        distance_diff=("f32", "negative_distance - positive_distance"),
    ),
)
def triplets(distances: pl.DataFrame, relations: pl.DataFrame, store: dg.ResourceParam[Store]) -> dg.MaterializeResult:
    """One row per (anchor, positive, negative), through the view `triplets` that taxonomy.triplets.connect opens."""
    from naics_pipeline.taxonomy.triplets import write_triplets

    table = write_triplets(distances, relations, store.path("triplets"))
    store.publish("triplets")
    total = int(table["triplets"].sum())
    logger.info("%s triplets", f"{total:,}")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": total,
            "hardness": rows(table),
            **place(store, "triplets"),
        },
        data_version=data_version(content_version(distances).value, content_version(relations).value),
    )


@asset(
    group_name="training_data",
    kinds={"huggingface", "parquet"},
    code_version=version(2, "tokens", "model.base", "model.base_sha256"),
    metadata=columns(
        code=("string", "NAICS code"),
        title=("list[i32]", "token ids, special tokens included; null where the text is absent"),
        description=("list[i32]", "likewise"),
        examples=("list[list[i32]]", "likewise, a list for each example"),
        excluded=("list[i32]", "likewise"),
    ),
)
def token_cache(
    conf: dg.ResourceParam[Config], store: dg.ResourceParam[Store], descriptions: pl.DataFrame
) -> dg.MaterializeResult:
    """One row per code: the token ids of its four texts, at their own lengths."""
    from naics_pipeline.text_model import base, tokens

    settings = conf.settings
    model = base.locate(settings.model.base, settings.model.base_sha256)
    counts = tokens.build_token_cache(descriptions, settings.tokens, model, store.path("token_cache")).token_counts()
    store.publish("token_cache")
    logger.info("%s tokens", f"{sum(counts.values()):,}")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": descriptions.height,
            **{f"tokens_{channel}": count for channel, count in counts.items()},
            **place(store, "token_cache"),
        },
        data_version=data_version(tokens.cache_fingerprint(descriptions, settings.tokens, model)),
    )
