"""Sound in: files and other containers, microphones, and where speech is."""
