"""Exit codes that no error class has; the classes of errors.py hold theirs."""

SOME_FAILED = 10  # some of several inputs failed
HUNG_UP = 129  # SIGHUP: the terminal was closed
INTERRUPTED = 130  # Ctrl-C, or anything but "yes" to a question
NO_READER = 141  # what a shell reports for a closed pipe
TERMINATED = 143  # SIGTERM
