"""What a model is (`weights.config`), and its files: checkpoints, released models, pretrained backbones."""

DEFAULT_BACKBONE = "efficientnet_lite0"  # its weights come with a package
DEFAULT_VOTING = "hough"
DEFAULT_DECODER = "cells"
RANDOM = "random"  # instead of a file of weights: they are drawn
