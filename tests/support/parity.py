"""The one comparison of arrays that the tests use."""

import numpy as np


def assert_parity(actual, expected, *, atol: float, rtol: float = 0.0, what: str) -> None:
    """Compare dtype, shape, values; a failure says how far and where."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, (
        f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    )
    assert actual.shape == expected.shape, (
        f"{what}: shape {actual.shape}, expected {expected.shape}"
    )
    error = np.abs(actual.astype(np.float64) - expected)
    outside = ~(error <= atol + rtol * np.abs(expected))
    if outside.any():
        worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        a, b = actual.ravel().astype(np.float64), expected.ravel().astype(np.float64)
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-30)
        raise AssertionError(
            f"{what}: error {error[worst]:.3g} at {tuple(map(int, worst))} (got "
            f"{actual[worst]:.6g}, expected {expected[worst]:.6g}), {outside.mean():.2%} outside "
            f"atol {atol:g} rtol {rtol:g}, cosine {cosine:.6f}"
        )
