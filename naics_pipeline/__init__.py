"""An orchestrated pipeline that turns the NAICS workbooks into hyperbolic embeddings of the industry codes."""

import os

# Read once, when torch is first imported, so that they have to be set here, before any module of the package can do so.
# A thread of OpenMP that waits keeps its processor busy; beside any other process, both then crawl.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# oneDNN keeps what it compiled for a thousand shapes of bfloat16 products, and texts come in ever other shapes: with 64
# fifty training steps peak a fifth lower, in no more time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
