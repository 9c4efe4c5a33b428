"""Live speech becomes text as it is spoken, in the protocols that people's clients speak."""
