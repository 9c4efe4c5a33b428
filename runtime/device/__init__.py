"""Devices on which graphs run, and buffers that stay in their memory between calls."""
