"""Runs every module of this package that has ROWS and prints a table for each; names of modules may be given.

A module with a `main` of its own (ablations, curves, processes, report, search) runs where it is named first, with what
follows.
"""

import importlib
import pkgutil
import sys

import benchmarks
from benchmarks.measure import table


def main(wanted: list[str]) -> None:
    if wanted:
        named = importlib.import_module(f"benchmarks.{wanted[0]}")
        if hasattr(named, "main"):
            named.main(wanted[1:])
            return
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name.startswith("__") or (wanted and module.name not in wanted):
            continue
        rows = getattr(importlib.import_module(f"benchmarks.{module.name}"), "ROWS", None)
        if rows:
            for line in table(module.name, rows):
                print(line, flush=True)
            print()


if __name__ == "__main__":
    main(sys.argv[1:])
