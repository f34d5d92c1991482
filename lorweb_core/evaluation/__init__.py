"""Measure ways of making b' on many analogies, in the manner of the paper's evaluation (arXiv 2602.15727 v2)."""
