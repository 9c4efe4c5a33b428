"""The model run layer by layer on speech, to measure what bits cost and spend them."""
