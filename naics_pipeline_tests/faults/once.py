"""The whole pipeline once, tiny, in this process: what the campaign ends, starves and confuses.

python -m naics_pipeline_tests.faults.once SOURCE DATA BASE
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

from naics_pipeline.failures import explanation
from naics_pipeline_tests import runs

TINY = {
    "training.epochs_scale": 0.5,
    "training.queries_per_batch": 2,
    "graph.steps": 20,
    "graph.left_out_fraction": 0,
    "taxonomy.held_out_fraction": 0,
    "taxonomy.validation_fraction": 0,
    "evaluation.baselines": False,
}


def main(source: str, data: str, base: str) -> int:
    """0 where everything was made; else the message of what failed is the last line."""
    limit_what_is_asked()
    result = runs.materialize("*", Path(data), source=source, model__base=base, **TINY)
    if result.success:
        return 0
    failed = next(event for event in result.all_events if event.is_step_failure)
    print(f"{failed.step_key} failed: {explanation(failed.event_specific_data)}", flush=True)
    return 1


def limit_what_is_asked() -> None:
    """Limits by the environment: LARGEST_FILE and MEMORY in bytes, CLOCK_JUMP in seconds."""
    if largest := os.environ.get("LARGEST_FILE"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
    if memory := os.environ.get("MEMORY"):
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    if jump := os.environ.get("CLOCK_JUMP"):
        real, begun = time.time, time.monotonic()
        time.time = lambda: real() + (float(jump) if time.monotonic() - begun > 8 else 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
