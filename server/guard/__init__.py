"""What stands before the application: hosts, origins and keys are checked, all has limits."""
