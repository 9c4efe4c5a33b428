"""Many recordings on one device, files and live ones: encoded ahead, decoded in lockstep."""
