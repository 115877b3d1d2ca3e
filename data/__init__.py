"""The benchmarks as data sets of annotated image pairs, and their download. Files only, no model."""
