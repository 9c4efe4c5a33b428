"""The publication of an artifact as a repository of the Hugging Face hub."""
