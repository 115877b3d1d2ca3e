"""Weights in files: checkpoints, pretrained and released ones, and what a model is."""
