"""The command line, as `python -m voxtral_onnx`."""

from .cli import main

main()
