"""Run the model layer by layer on speech, to measure what quantisation costs each layer."""
