"""Lines of libmpg123 stay away, those of others come through."""

from __future__ import annotations

import os

from voxtral_onnx.runtime.audio.container.foreign import without_foreign_lines

LINES = (
    b"[src/libmpg123/layer3.c:INT123_do_layer3():1774] error: part2_3_length (2272) too large\n",
    b"\nWarning: Xing stream size off by more than 1%, fuzzy seeking may be even more fuzzy!\n",
    b"Note: Trying to resync...\n",
)


def test_lines(capfd):
    with without_foreign_lines() as found:
        for line in LINES:
            os.write(2, line)
            os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n" * 3
    assert b"".join(found) == b"".join(LINES)


def test_a_stderr_that_is_closed():
    kept = os.dup(2)
    os.close(2)
    try:
        with without_foreign_lines() as found:
            pass
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert found == []
