"""Checkpoint to artifact: trace the graphs without weights, then stream the weights in."""
