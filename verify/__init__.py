"""The ladder from single operators to words, and the certificate that it ends in.

The package is also the function that climbs it: `from voxtral_onnx import verify;
verify("artifact")`. See ladder.py.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any):
        from .ladder import verify

        return verify(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
