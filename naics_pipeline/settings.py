"""What can be set, with defaults and bounds. Where values come from is the business of `config.py`."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

EASIEST, HARDEST = 1, 8
Bucket = Annotated[int, Field(ge=EASIEST, le=HARDEST)]
"""Hardness of a negative."""


def _whole(shares: dict[int, float]) -> dict[int, float]:
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares sum to {sum(shares.values()):g}, not to 1")
    return shares


BucketShares = Annotated[dict[Bucket, Annotated[float, Field(ge=0, le=1)]], AfterValidator(_whole)]
"""Hardness of negatives → share."""


def quotas(shares: dict[int, float], k: int) -> dict[int, int]:
    """How many of k negatives each bucket should give, easiest first; remainders go to the hardest."""
    buckets = sorted(bucket for bucket, share in shares.items() if share > 0)
    given = {bucket: int(shares[bucket] * k + 1e-9) for bucket in buckets}
    for position in range(k - sum(given.values())):
        given[buckets[-1 - position % len(buckets)]] += 1
    return given


class Section(BaseModel):
    """A group of settings: immutable, and no key is accepted that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Download(Section):
    base_url: str = Field("https://www.census.gov/naics", description="below it a directory per vintage, 2022NAICS")
    timeout_seconds: float = Field(60, gt=0, description="how long the server may keep silent")
    retries: int = Field(4, ge=0, description="after a failure that may pass")
    backoff_seconds: float = Field(1.0, ge=0, description="waits between retries begin with about this and double")
    max_megabytes: float = Field(50, gt=0, description="of one workbook")


class Taxonomy(Section):
    held_out_fraction: float = Field(0.2, ge=0, lt=1, description="share of index entries kept for evaluation")
    validation_fraction: float = Field(0.08, ge=0, lt=1, description="share that settings and weights are chosen on")
    corrections: str | None = Field(
        None, description="CSV file of further training entries, columns text and code, as `naics serve` saves it"
    )

    @model_validator(mode="after")
    def some_are_left(self) -> Self:
        if self.held_out_fraction + self.validation_fraction >= 1:
            raise ValueError("held_out_fraction and validation_fraction leave no index entry to train on")
        return self


class Tokens(Section):
    """Longest token sequence by the adapter that reads it, special tokens included."""

    short: int = Field(96, ge=4, description="titles, index entries, phrases, sentences, free text")
    description: int = Field(128, ge=4, description="of a code")
    excluded: int = Field(128, ge=4, description="the cross-references of a code")


class Adapter(Section):
    """Low-rank adapter of all linear layers of some blocks; Hu et al. (2022)."""

    rank: int = Field(8, ge=1, description="of the matrices that are learned")
    alpha: int = Field(16, ge=1, description="what they say counts alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of their input, in training")
    blocks: int | None = Field(
        None,
        ge=0,
        description="the top n blocks carry it, over hidden states that are computed once; 0: none does; null: all do",
    )


class Adapters(Section):
    """One adapter for all short text, one for each channel of long texts."""

    short: Adapter = Adapter(rank=16, alpha=32)
    description: Adapter = Adapter(blocks=0)
    excluded: Adapter = Adapter(blocks=0)


class Shares(Section):
    """What each channel counts in a code's point before training moves it; only their ratios matter."""

    title: float = Field(0.25, gt=0, description="what its title says")
    description: float = Field(0.25, gt=0, description="the more, the fewer examples codes have")
    examples: float = Field(0.5, gt=0, description="the mean of its index entries")
    excluded: float = Field(0.02, gt=0, description="what a code leaves out says least of it")


class Model(Section):
    base: str = Field("all-MiniLM-L6-v2", description="Hugging Face name (name@commit: pinned) or local path")
    base_sha256: str | None = Field(None, description="what the weights must hash to; null: the known hash, if any")
    dropout: float | None = Field(None, ge=0, lt=1, description="of the base in training; null: its own configuration")
    short_text: Literal["lora", "full"] = Field(
        "lora", description="full: short text has a base of its own, all of it trained"
    )
    adapters: Adapters = Adapters()
    base_share: float = Field(
        0.5, ge=0, lt=1, description="of the base's own vector in that of a short text; it knows words no training has"
    )
    shares: Shares = Shares()
    channel_dropout: float = Field(0.1, ge=0, lt=1, description="chance that a step does not see a channel of a code")
    fusion: Literal["moe", "linear"] = Field("moe", description="mixture of experts, or one linear map (ablation)")
    experts: int = Field(4, ge=1, description="of the mixture")
    top_k: int = Field(2, ge=1, description="experts that a code is given to; at most experts")
    expert_dim: int = Field(256, ge=1, description="hidden width of an expert")
    fusion_dropout: float = Field(0.1, ge=0, lt=1, description="of what the experts read, and inside them")
    offset_dropout: float = Field(
        0.1, ge=0, le=1, description="share of codes placed by their texts alone in a step; 1: codes have no offset"
    )
    geometry: Literal["lorentz", "euclidean"] = Field("lorentz", description="euclidean: an ablation, not refined")
    embedding_dim: int = Field(
        256, ge=2, description="d; a point has d + 1 coordinates; in fewer, texts unlike the index are found less"
    )
    edge_length: float = Field(0.5, gt=0, description="where the learned length of an edge of the tree starts")
    curvature: float = Field(
        0.1, ge=0.1, le=10, description="c of a space with sectional curvature -c; in a flatter one texts find more"
    )
    learn_curvature: bool = Field(False, description="curvature is where a learned one starts")
    max_radius: float = Field(8.0, gt=0, le=12, description="bound of the points' radius, in units of 1/sqrt(c)")


class Objective(Section):
    """Weights of the terms of the loss (0: not computed) and their constants."""

    contrastive: float = Field(0.0, ge=0, description="pairs of codes nearer than their negatives; 0.03 where wanted")
    query: float = Field(1.0, ge=0, description="short texts nearest to their six-digit code")
    neighbour: float = Field(0.5, ge=0, description="short texts near to others of their six-digit code")
    hierarchy: float = Field(0.5, ge=0, description="distances follow those of the tree")
    radius: float = Field(0.0, ge=0, description="each level has its distance from the origin; 0.05 where wanted")
    rank: float = Field(0.0, ge=0, description="LambdaRank for ndcg@10")
    balance: float = Field(0.2, ge=0, description="every expert gets its share of the codes")
    attraction: float = Field(0.0, ge=0, description="of suspected false negatives, where a stage looks for them")
    retention: float = Field(
        0.0, ge=0, description="the adapter says of a short text nearly what the base says; 1 where there are few texts"
    )
    contrastive_loss: Literal["dcl", "infonce"] = Field("dcl", description="infonce: the positive joins the sum")
    temperature: float = Field(0.5, ge=0.01, le=10, description="of the contrastive term")
    learn_temperature: bool = Field(False, description="temperature is where a learned one starts")
    margin: float = Field(0.5, ge=0, description="norm-adaptive margin: this times sech(radius of the anchor)")
    in_batch_negatives: bool = Field(False, description="codes of the batch beyond the positive join in")
    query_temperature: float = Field(0.25, ge=0.01, le=10, description="of the query term")
    learn_query_temperature: bool = Field(True, description="query_temperature is where a learned one starts")
    query_smoothing: float = Field(0.1, ge=0, lt=1, description="share of a query's target given to relatives")
    query_margin: float = Field(0.5, ge=0, description="how much nearer a code that Census warns of is made to look")


TrainingPrecision = Literal["auto", "32-true", "bf16-mixed"]


class Training(Section):
    queries_per_batch: int = Field(256, ge=1, description="short texts read afresh in a step, by all devices together")
    queries_per_epoch: int | None = Field(None, ge=1, description="short texts an epoch reads, drawn anew; null: all")
    variations: float = Field(
        0.25, ge=0, description="texts made of a code's examples (joined, turned round, misspelt), as a share of them"
    )
    neighbours_per_step: int = Field(
        32_768, ge=1, description="texts that the term neighbour holds a step's against, a random sample of more"
    )
    pairs_per_batch: int = Field(32, ge=1, description="pairs of codes in a step, each with k_negatives negatives")
    live_codes: int | None = Field(
        None, ge=1, description="codes of a batch whose long texts are read afresh, the others keep theirs; null: all"
    )
    tokens_per_group: int = Field(
        8192,
        ge=1,
        description="padded tokens that go through the transformer at once: what bounds the memory of a step",
    )
    epochs_scale: float = Field(1.0, gt=0, description="multiplies each stage's epochs")
    adapter_rate: float = Field(0.5, ge=0, description="learning rate of the adapters as a multiple of the stage's")
    weight_decay: float = Field(0.01, ge=0, description="of matrices; AdamW")
    warmup_fraction: float = Field(0.06, ge=0, lt=1, description="share of a stage in which the rate rises")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient of all weights")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one step of the optimiser")
    early_stopping_patience: int | None = Field(None, ge=1, description="in epochs; null: off")
    validation_fraction: float = Field(0.05, ge=0, lt=1, description="share of pairs of codes never trained on")
    left_out_fraction: float = Field(
        0.0, ge=0, lt=1, description="share of six-digit codes that no training sees, to measure what generalises"
    )
    devices: int = Field(1, ge=1, description="of each machine; a process for each reads its share of a step's texts")
    nodes: int = Field(1, ge=1, description="machines that train together, where torchrun starts the processes")
    precision: TrainingPrecision = Field(
        "auto", description="of the transformer in training; auto: bf16 on CUDA, and on a CPU with AVX-512 BF16"
    )


class GraphObjective(Section):
    """Weights of the terms of the graph model's loss (0: not computed); where they are learned, where they start."""

    triplet: float = Field(0.01, ge=0, description="a positive nearer than each negative, by a margin")
    radius: float = Field(0.1, ge=0, description="each level has its distance from the origin")
    stress: float = Field(1.0, ge=0, description="distances equal those of the tree")
    retention: float = Field(0.002, ge=0, description="distances within a sector stay as in the text model")


class Graph(Section):
    layers: int = Field(2, ge=1, description="rounds of messages")
    sibling_weight: float = Field(0.5, ge=0, lt=1, description="of such an edge, where one of the tree has 1; 0: none")
    grandparent_weight: float = Field(0.5, ge=0, lt=1, description="likewise")
    great_grandparent_weight: float = Field(0.25, ge=0, lt=1, description="likewise")
    attention_dim: int = Field(16, ge=1, description="width in which a message is weighed")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what a layer adds, in training")
    offset_dropout: float = Field(0.1, ge=0, lt=1, description="share of codes placed without their offset in a step")
    max_radius: float = Field(
        8.0, gt=0, le=12, description="bound of the refined points' radius, in units of 1/sqrt(c)"
    )
    radii: Literal["level", "free"] = Field(
        "level", description="level: the codes of a level lie on one sphere; free: each code has a radius of its own"
    )
    objective: GraphObjective = GraphObjective()
    weighting: Literal["fixed", "uncertainty"] = Field("fixed", description="uncertainty: the weights are learned")
    k_negatives: int = Field(16, ge=1, description="of each pair of anchor and positive")
    bucket_percentages: BucketShares = Field(
        {1: 0.40, 2: 0.20, 3: 0.10, 4: 0.10, 5: 0.10, 6: 0.05, 8: 0.05},
        description="hardness of the negatives → share",
    )
    hard_negatives: float = Field(
        0.5, ge=0, le=1, description="share of negatives taken nearest first, from the third quarter of the steps on"
    )
    steps: int = Field(240, ge=1, description="optimizer steps, each over the whole graph")
    pairs_per_step: int = Field(
        4_000_000,
        ge=1,
        description="a taxonomy of more pairs of codes shows each step a random sample of about so many",
    )
    steps_per_epoch: int = Field(10, ge=1, description="steps between reports and between draws of triplets")
    learning_rate: float = Field(0.05, gt=0, description="of Adam")
    left_out_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of deepest codes that a second, measuring fit leaves out; 0: no such fit"
    )
    smoothing_rounds: int = Field(2, ge=1, description="rounds of the control that smooths without learning")


class Evaluation(Section):
    baselines: bool = Field(True, description="TF-IDF, linear SVM and the frozen base model beside the embeddings")
    cutoffs: tuple[int, ...] = Field(
        (5, 10, 20), description="the k of ndcg@k; 10, which the gate reads, is always among them"
    )
    labelled: str | None = Field(
        None, description="CSV of texts with their right codes (columns text, codes; codes separated by blanks)"
    )


class Classification(Section):
    file: str | None = Field(
        None, description="CSV or Parquet file, or directory of such, that the asset `classified` codes; null: no asset"
    )
    text: str = Field("text", min_length=1, description="its column that says what a business does")
    top: int = Field(3, ge=1, description="codes for each row")
    threshold: float = Field(0.5, gt=0, le=1, description="the answer is the deepest code that is so probable")
    workers: int = Field(1, ge=1, description="processes that code the files of a directory")


class Registry(Section):
    model_name: str = Field(
        "naics",
        pattern=r"^[^/:'\s][^/:']*$",
        description="under which MLflow's registry keeps each index, its alias champion the one to serve; a name each "
        "for sources whose held-out entries differ",
    )


SearchPrecision = Literal["auto", "float32", "bfloat16", "int8"]


class Search(Section):
    precision: SearchPrecision = Field(
        "auto",
        description="of a BERT's matrices on a CPU; auto: bfloat16 with AVX-512 BF16, else float32; int8: for VNNI",
    )


class Pod(Section):
    """What a step that trains asks of Kubernetes, in its words."""

    cpu: str = Field("4", min_length=1, description="processors")
    memory: str = Field("16Gi", min_length=1, description="with its unit")
    gpus: int = Field(0, ge=0, description="of NVIDIA; each such step runs where so many are free")


class Orchestration(Section):
    executor: Literal["multiprocess", "kubernetes"] = Field(
        "multiprocess", description="where steps run: processes of the run's machine, or a pod each (extra k8s)"
    )
    pod: Pod = Pod()
    retraining_schedule: str = Field("0 3 1 * *", description="cron expression of the monthly retraining, UTC")
    source_check_seconds: int = Field(86400, ge=60, description="how often the sensor compares the source's checksums")
    experiment: str = Field("naics-pipeline", min_length=1, description="MLflow experiment")
    dagster_url: str = Field("http://127.0.0.1:3000", description="for links from MLflow to Dagster")
    mlflow_url: str = Field("http://127.0.0.1:5000", description="for links from Dagster to MLflow without a server")


class Settings(Section):
    """Every setting of the pipeline."""

    source: str = Field("sample", description="sample, census, or a directory that holds the four workbooks")
    vintage: Literal[2017, 2022] = Field(2022, description="year of the classification")
    data_dir: str = Field("data", description="where outputs go: a directory or any fsspec URL")
    curriculum: str = Field("conf/curriculum", description="directory of stage files")
    final_stage: str | None = Field(
        None, description="stage that is embedded and evaluated, where the curriculum branches; null: the last one"
    )
    accelerator: Literal["auto", "cuda", "mps", "cpu"] = Field("auto", description="auto: the best that there is")
    seed: int = Field(42, ge=0, description="of everything that is drawn; one seed on one machine gives one result")
    download: Download = Download()
    taxonomy: Taxonomy = Taxonomy()
    tokens: Tokens = Tokens()
    model: Model = Model()
    objective: Objective = Objective()
    training: Training = Training()
    graph: Graph = Graph()
    evaluation: Evaluation = Evaluation()
    classification: Classification = Classification()
    registry: Registry = Registry()
    search: Search = Search()
    orchestration: Orchestration = Orchestration()

    @property
    def reads_base(self) -> bool:
        """Whether training asks what the base itself says of short texts."""
        return bool(self.model.base_share or self.objective.retention)
