"""The server: the page with a model, and its API for recordings and live speech."""
