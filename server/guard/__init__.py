"""Guards before the application: hosts, origins and keys are checked, and all has limits."""
