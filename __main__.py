"""`python -m voxtral_onnx` runs the command line."""

from .cli import main

main()
