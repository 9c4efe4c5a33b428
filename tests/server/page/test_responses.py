"""Which part of a file a request asks for."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from voxtral_onnx.server.page.responses import requested_range


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=99-", (99, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-1000", (0, 100)),
        # The whole file
        ("bytes=-", None),
        ("bytes=20-10", None),
        ("bytes=0-1,5-6", None),
        ("bytes=a-b", None),
        ("bytes=\u0661-", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("lines=1-2", None),
        ("", None),
    ],
)
def test_ranges(asked, expected):
    assert requested_range({"range": asked}, 100) == expected
    assert requested_range({"range": asked, "if-range": '"an earlier one"'}, 100) is None


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999-"])
def test_ranges_outside(asked):
    with pytest.raises(HTTPException) as refused:
        requested_range({"range": asked}, 100)
    assert refused.value.status_code == 416
    assert refused.value.headers == {"Content-Range": "bytes */100"}
