"""An orchestrated pipeline that turns the NAICS workbooks into hyperbolic embeddings of the industry codes."""

import os

# A thread of OpenMP that waits keeps its processor busy; beside any other process, both then crawl. Read once, when
# torch is first imported, so that it has to be set here, before any module of the package can do so.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
