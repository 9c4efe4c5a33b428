"""The verification of an artifact, from single operators to words, and its certificate."""
