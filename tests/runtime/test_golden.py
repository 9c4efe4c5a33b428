"""The files that other hosts are tested with say what this runtime does."""

import json

import numpy as np
import pytest
from golden import make

# Of an angle in radians: its frequency is a power, off by a last place or two of float64 that
# differ from one libm or processor to the next, and so are the angle and its cosine.
ANGLE_RTOL = 2.0**-50


@pytest.mark.parametrize("name", make.golden())
def test_golden_files_are_what_python_computes(name):
    stored, computed = json.loads((make.HERE / f"{name}.json").read_text()), make.golden()[name]
    if name == "rotation":
        assert stored["positions"] == computed["positions"]
        atol = ANGLE_RTOL * (1 + np.array(stored["positions"])[:, None])  # no frequency is above 1
        for part in ("cos", "sin"):
            assert (np.abs(np.subtract(stored[part], computed[part])) <= atol).all()
    else:
        assert stored == computed
