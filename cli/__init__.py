"""The command line: `app.py` holds its commands, `options.py` every option once."""


def main() -> None:
    """Run the program `voxtral-onnx`."""
    import os
    import signal
    import sys

    from .exit_codes import INTERRUPTED

    try:
        from .app import main as run

        run()
    except KeyboardInterrupt:  # while it is loaded, or in its last lines
        sys.exit(INTERRUPTED)
    finally:  # all is written; the interpreter waits for threads, and shows where Ctrl-C met it
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
