"""Audio input: files and other containers, microphones, mixing, and where speech is."""
