"""How large a batch may be: tried by training steps on the device itself, each size in a process of its own."""

import multiprocessing
import re
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl
import torch

from naics_pipeline.errors import SettingsError
from naics_pipeline.files import replacing
from naics_pipeline.settings import Settings
from naics_pipeline.text_model.base import locate
from naics_pipeline.text_model.curriculum.stage import Stage
from naics_pipeline.text_model.device import resolve
from naics_pipeline.text_model.model import TextModel
from naics_pipeline.text_model.training.batches import Plan, epoch
from naics_pipeline.text_model.training.inputs import load_inputs
from naics_pipeline.text_model.training.module import StageModule

STEPS = 3
FIRST = 32
KEY = "queries_per_batch"


@dataclass(frozen=True)
class Trial:
    """One size that was tried.

    Attributes:
        size: short texts a batch.
        peak_bytes: of memory, on the device; None where it did not fit.
        texts_per_second: read, forward and backward.
        problem: why it does not count; None where it does.
    """

    size: int
    peak_bytes: int | None = None
    texts_per_second: float | None = None
    problem: str | None = None


def try_sizes(
    settings: Settings,
    frames: dict[str, pl.DataFrame],
    *,
    token_cache: Path,
    hidden_cache: Path,
    limit: int,
    memory_share: float,
) -> Iterator[Trial]:
    """Sizes that double, until one does not fit, or an epoch has no more texts.

    Args:
        frames: descriptions, index_entries and phrases.
        token_cache, hidden_cache: directories of the caches.
        limit: no size above this.
        memory_share: of the device's memory that a batch may take.
    """
    context, size = multiprocessing.get_context("spawn"), min(FIRST, limit)
    allowed = memory_share * _memory(resolve(settings.accelerator))
    while True:
        # A process that is out of memory is killed: it must not be this one. A fresh one also has its own peak.
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                trial = pool.submit(_try, settings, frames, token_cache, hidden_cache, size).result()
            except BrokenProcessPool:
                trial = Trial(size, problem="out of memory: the process was killed")
        if trial.peak_bytes is not None and trial.peak_bytes > allowed:
            trial = Trial(
                size, trial.peak_bytes, trial.texts_per_second, f"more than {allowed / 2**30:.1f} GiB of memory"
            )
        yield trial
        if trial.problem or size >= limit:
            return
        size = min(2 * size, limit)


def largest(trials: list[Trial]) -> int:
    """The largest size that fits.

    Raises:
        SettingsError: not even the first one does.
    """
    fitting = [trial.size for trial in trials if trial.problem is None]
    if not fitting:
        raise SettingsError(
            f"no batch fits, not even {trials[0].size} texts: {trials[0].problem}. Lower training.tokens_per_group, "
            "which bounds the memory of a step."
        )
    return max(fitting)


def _try(
    settings: Settings, frames: dict[str, pl.DataFrame], token_cache: Path, hidden_cache: Path, size: int
) -> Trial:
    training = settings.training.model_copy(update={KEY: size})
    settings = settings.model_copy(update={"training": training})
    device = resolve(settings.accelerator)
    stage = Stage(name="trial", contrastive=0, hierarchy=0, epochs=1, learning_rate=1e-6)
    base = locate(settings.model.base, settings.model.base_sha256)
    model = TextModel(base, settings, frames["descriptions"]["code"].to_list()).to(device)
    inputs = load_inputs(**frames, settings=settings, token_cache=token_cache, hidden_cache=hidden_cache, model=model)
    plan = Plan.of(inputs, stage, settings)
    if size > sum(plan.texts()):
        return Trial(size, problem=f"an epoch has {sum(plan.texts())} texts")
    module = StageModule(model, plan, STEPS + 1, lambda distances: {}).to(device).train()
    # What the tables hold costs nothing, but all must have a direction.
    module.tables.short.renew(torch.nn.functional.normalize(torch.randn_like(module.tables.short.values), dim=-1))
    optimizer = module.configure_optimizers()["optimizer"]
    read, seconds = 0, 0.0
    try:
        for number, batch in enumerate(islice(epoch(plan, module.state), STEPS + 1)):
            batch = {name: value.to(device) for name, value in batch.items()}
            started = time.monotonic()
            optimizer.zero_grad()
            loss = module.objective.total(module.read_and_score(batch))
            loss.backward()
            optimizer.step()
            loss.item()
            # The first step also warms up.
            if number or len(plan) == 1:
                read, seconds = read + len(batch["query_code"]), seconds + time.monotonic() - started
    except (torch.OutOfMemoryError, MemoryError):
        return Trial(size, problem="out of memory")
    return Trial(size, _peak(device), read / max(seconds, 1e-9))


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    # Kilobytes on Linux, of the whole process.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory(device: torch.device) -> int:
    """Bytes of memory of the device that are free now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found
    return int(found.group(1)) * 1024


def write_batch(path: Path, size: int) -> None:
    """Sets training.queries_per_batch in a profile, and leaves every other line, comments among them, as it is."""
    lines = path.read_text(encoding="utf-8").splitlines()
    section = next((number for number, line in enumerate(lines) if re.match(r"training:\s*(#.*)?$", line)), None)
    if section is None:
        lines += ["training:", f"  {KEY}: {size}"]
    else:
        end = next((n for n in range(section + 1, len(lines)) if re.match(r"\S", lines[n])), len(lines))
        place = next((n for n in range(section + 1, end) if re.match(rf"\s+{KEY}:", lines[n])), None)
        if place is None:
            lines.insert(section + 1, f"  {KEY}: {size}")
        else:
            lines[place] = re.sub(rf"({KEY}:\s*)[^\s#]+", rf"\g<1>{size}", lines[place])
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
