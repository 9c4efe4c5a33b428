"""An artifact as a repository of the Hugging Face hub."""
