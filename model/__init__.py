"""The matching: backbone -> gating -> correlation -> Hough voting -> key-point transfer. Tensors only."""
