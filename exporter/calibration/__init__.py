"""The model run layer by layer on speech, to measure what bits cost and choose where they go."""
