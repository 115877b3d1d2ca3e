"""What matches with a network: images of one's own, and the pairs of a benchmark."""
