"""The web page with a model, served over HTTP or written as a folder for any static host."""
