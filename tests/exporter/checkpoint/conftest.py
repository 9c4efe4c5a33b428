"""Fixtures of tests that open checkpoints."""

from __future__ import annotations

import pytest


@pytest.fixture
def refuse(run, tmp_path):
    """Exporting with these options ends with exit code 3 and these words, and leaves no trace."""

    def refuse(source, *parts, options=()):
        out = tmp_path / "out"
        run("export", source, "-o", out, *options).assert_refused(3, *parts)
        assert not out.exists()

    return refuse
