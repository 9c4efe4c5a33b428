"""Stream weights into external data files, each at a location planned from shapes."""
