"""Make graphs: traced without weights, cleaned by passes, retargeted to other precisions."""
