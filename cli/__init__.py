"""The command line: `app.py` holds its commands, `options.py` every option once."""


def main() -> None:
    """Run the program `voxtral-onnx`."""
    from .app import main as run

    run()
