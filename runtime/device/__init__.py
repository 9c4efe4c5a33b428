"""Where graphs run, and the buffers that stay there between calls."""
