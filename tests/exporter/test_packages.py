"""What lacks packages is named in words, with the lines that install them."""

from __future__ import annotations

import tomllib

import pytest
from test_layout import ROOT

from voxtral_onnx.exporter.packages import (
    INSTALL_TRACE,
    INSTALL_TRANSFORMERS,
    how_to_install,
    say_missing,
)


@pytest.mark.parametrize(
    ("packages", "words", "lines"),
    [
        (["torch"], "PyTorch is missing", [INSTALL_TRACE]),
        (["transformers"], "transformers is missing", [INSTALL_TRANSFORMERS]),
        (
            ["torch", "transformers"],
            "PyTorch and transformers are missing",
            [INSTALL_TRACE, INSTALL_TRANSFORMERS],
        ),
    ],
)
def test_missing_packages_in_words(packages, words, lines):
    assert say_missing(packages) == words
    assert how_to_install(packages) == "\n".join(lines)


def test_transformers_is_the_version_of_the_tests():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = INSTALL_TRANSFORMERS.split("'")[1]
    assert wanted in str(project) and wanted in (ROOT / "docs" / "checking.md").read_text()
