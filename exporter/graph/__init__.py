"""Graphs: traced without weights, cleaned, moved to other precisions; the families of hosts."""
