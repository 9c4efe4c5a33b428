"""Exit codes that belong to no error; those of errors stand in errors.py."""

SOME_FAILED = 10  # some of several inputs
HUNG_UP = 129  # SIGHUP: the terminal has gone
INTERRUPTED = 130  # Ctrl-C, or anything but "yes" to a question
NO_READER = 141  # what a shell reports for a closed pipe
TERMINATED = 143  # SIGTERM
