"""The files that other hosts are tested with say what this runtime does."""

import json

import numpy as np
import pytest
from golden import make

LIBM_ATOL = 1e-12  # float64 cosines of other NumPy builds


@pytest.mark.parametrize("name", make.golden())
def test_golden_files_are_what_python_computes(name):
    stored, computed = json.loads((make.HERE / f"{name}.json").read_text()), make.golden()[name]
    if name == "rotation":
        assert stored["positions"] == computed["positions"]
        for part in ("cos", "sin"):
            np.testing.assert_allclose(stored[part], computed[part], rtol=0, atol=LIBM_ATOL)
    else:
        assert stored == computed
