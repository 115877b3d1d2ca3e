"""The training loop and its state; what a supervision does in a step."""
