"""Hyperbolic embeddings of the NAICS industry codes, as an orchestrated pipeline."""
