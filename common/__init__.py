"""What the programs share: options, evaluation, checkpoints, logging and pictures."""
