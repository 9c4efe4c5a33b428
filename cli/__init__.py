"""The command line: `app.py` registers the commands, `options.py` defines every option once."""


def main() -> None:
    """Run the program `voxtral-onnx`."""
    import os
    import signal
    import sys

    from .exit_codes import INTERRUPTED

    try:
        from .app import main as run

        run()
    except KeyboardInterrupt:  # during imports, or after the last error handler
        sys.exit(INTERRUPTED)
    finally:  # all is written; Ctrl-C while the interpreter joins threads prints no traceback
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
