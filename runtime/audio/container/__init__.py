"""Files and pipes to samples: which bytes are sound, where it ends, and what was damaged."""
