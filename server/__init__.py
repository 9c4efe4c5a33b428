"""The page and a model over HTTP, or as a folder for any static host."""
