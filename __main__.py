"""`python -m voxtral_onnx` runs the command line."""

from .cli.app import main

main()
