"""What the project costs, against the plain way of doing the same: `python -m benchmarks` prints the tables."""
