"""Many recordings on one device: encoded ahead, decoded in lockstep."""
