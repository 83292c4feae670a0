"""What every process of a stage but the first runs: it is told the job, and trains it without a word.

`python -m naics_pipeline.text_model.training.worker COMMAND…`, started by torchrun, runs the command in the first
process, which trains a stage with all the others.
"""

import os
import sys
import threading

import torch.distributed as dist

from naics_pipeline.errors import NaicsError
from naics_pipeline.text_model.training.launch import member
from naics_pipeline.text_model.training.loop import fit
from naics_pipeline.text_model.training.processes import told


def main(command: list[str]) -> None:
    """Joins the group that the environment names; the first process of torchrun's becomes the command."""
    store = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if os.environ["RANK"] == "0":
            os.execvp(command[0], command)
    else:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        store.set(f"here/{os.environ['RANK']}", "")
    try:
        with member({}, store):
            fit(told(None), metrics=lambda distances: {}, on_epoch=lambda epoch, values: None)
    except NaicsError as error:
        sys.exit(f"process {os.environ['RANK']}: {error}")


def _end_with_parent() -> None:
    """Waits for the end of standard input: a process that dies, however it dies, closes it."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
