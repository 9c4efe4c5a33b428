"""Write manifests.json: a small manifest, and edits of it that every reader takes or refuses.

Usage: python tests/golden/manifests.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GONE = object()  # an edit that deletes
NAMES = {  # as tests/test_decode.py has them
    True: (
        *("a", "a.b/c_d", "..a", "a..b", ".a", "a/.b", "ü/é", "a b", "a?b#c%2e", "x" * 255),
        *("__proto__", "constructor", "toString", "é" * 255, "🎉" * 255),
    ),
    False: (
        *("", ".", "..", "/a", "../a", "a/../b", "a/..", "./a", "a//b", "a/", "//h/s", "C:a"),
        *("a\\b", "a\nb", "a\n", "\n", "\x1b]52;c;eA==\x07", "a\0", "\x7f", "a\x85", "\u202ea"),
        *("a\u2028b/..", "x" * 256, "é" * 256, "🎉" * 256, "\u2066a", "a\u2029"),
    ),
}
PIECE = 16 << 20


def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def graph(name: str, **more: Any) -> dict[str, Any]:
    return {
        "path": f"onnx/{name}.onnx",
        "inputs": [tensor("audio", "float32", "batch", "8*chunk")],
        "outputs": [tensor("logits", "float32", 1, "chunk", 5096)],
        "data": [],
        "parameters": 0,
        "operators": {"MatMulNBits": 2},
        **more,
    }


def cache(layers: int, heads: int, step: int, window: int, keep: int, capacity: int) -> dict:
    return {
        "num_layers": layers,
        "num_key_value_heads": heads,
        "head_dim": 64,
        "rope_theta": 1e6,
        "rows_per_token": step,
        "window": window,
        "keep": keep,
        "capacity": capacity,
    }


def stack(layers: int, heads: int, window: int, **more: int) -> dict[str, Any]:
    return {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "num_key_value_heads": heads,
        "head_dim": 64,
        "sliding_window": window,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-5,
        **more,
    }


FILES = ("onnx/decoder.onnx", "onnx/encoder.onnx", "onnx/mel.onnx", "onnx/other.onnx")
BASE: dict[str, Any] = {
    "format": 2,
    "generator": "voxtral-onnx 0.2.0",
    "fingerprint": "0f" * 32,
    "scope": "says nothing about the 4B model",
    "license": "apache-2.0",
    "config": {
        "audio": {
            "sample_rate": 16000,
            "n_fft": 400,
            "hop_length": 160,
            "n_mels": 128,
            "global_log_mel_max": 1.5,
            "frames_per_token": 8,
        },
        "encoder": stack(6, 6, 150, downsample_factor=4),
        "decoder": stack(4, 2, 128, vocab_size=5096, time_embedding_rank=32),
    },
    "tokens": {
        "bos": 1,
        "eos": 2,
        "streaming_pad": 32,
        "streaming_word": 33,
        "first_text": 1000,
    },
    "streaming": {
        "left_pad_tokens": 32,
        "right_pad_tokens": 11,
        "look_back_samples": 200,
        "look_ahead_samples": 40,
        "max_chunk_tokens": 16,
        "default_delay_tokens": 6,
        "max_delay_tokens": 30,
        "trained_delay_tokens": [3, 6, 12],
    },
    "caches": {
        "encoder": cache(6, 6, 4, 150, 152, 408),
        "decoder": cache(4, 2, 1, 128, 127, 159),
    },
    "mel": graph("mel"),
    "precisions": {
        "q4": {
            "activation_dtype": "float32",
            "recipe": {
                "name": "q4",
                "accuracy_level": 4,
                "rules": [{"tensors": "*", "bits": 4, "block_size": 32, "method": "rtn"}],
            },
            "encoder": graph("encoder", parameters=1000),
            "decoder": graph("decoder", data=["onnx/decoder.onnx_data"]),
            "families": {"portable": [graph("other")]},
        }
    },
    "files": {
        "tekken.json": {"size": 1000, "sha256": "1a" * 32, "pieces": []},
        **{name: {"size": 5000, "sha256": "2b" * 32, "pieces": []} for name in FILES},
        "onnx/decoder.onnx_data": {
            "size": PIECE + 1,
            "sha256": "3c" * 32,
            "pieces": ["4d" * 32, "5e" * 32],
        },
    },
}
Keys = str | tuple[str, ...]  # keys, with dots between them
Case = tuple[bool, Keys, Any]  # taken, path, the new value


def bounds(path: str, least: float, most: float, *, whole: bool = True) -> Iterator[Case]:
    """Yield a number's bounds, what lies beyond, and what is no number."""
    step = 1 if whole else 0.001
    yield from ((True, path, least), (True, path, most))
    yield from ((False, path, least - step), (False, path, most + step))
    yield from ((False, path, wrong) for wrong in ("1", None, True, [], {}, 10**20))
    if whole:
        yield False, path, least + 0.5


LOOKS = {  # samples, of which one number fits the base's window and hop
    "look_back_samples": ((True, 200), (False, 199), (False, 201)),
    "look_ahead_samples": ((True, 40), (False, 39), (False, 41)),
}


def cases() -> Iterator[Case]:
    """Yield what is to be taken or refused."""
    yield from ((False, path, GONE) for path in required(BASE) if not path.startswith("files."))
    yield from ((False, path, None) for path in required(BASE) if path != "scope")
    yield from ((True, "license", GONE), (True, "license", None), (True, "scope", None))
    yield from ((True, "unknown", [{"a": 1}]), (True, "tokens.unknown", "x"))
    yield from ((True, "precisions.q4.families", GONE), (True, "precisions", {}))

    for value in (0, 3, "2", None, True, [2], {"toString": 1, "valueOf": 1}, 2.5, GONE):
        yield False, "format", value
    yield True, "format", 1
    for path, most in (("generator", 256), ("license", 256), ("scope", 1000)):
        yield from ((True, path, "é" * most), (False, path, "é" * (most + 1)), (False, path, 1))
        yield True, path, "🎉" * most
    yield from ((False, "generator", ""), (True, "scope", ""), (False, "license", ""))

    for wrong in ("", "0F" * 32, "0f" * 31, "0f" * 33, "0f" * 32 + "\n", "g" * 64, 1, None):
        yield False, "fingerprint", wrong
        yield False, "files.tekken.json.sha256", wrong
        yield False, "files.onnx/decoder.onnx_data.pieces", ["4d" * 32, wrong]
    file = BASE["files"]["tekken.json"]
    for taken, names in NAMES.items():
        for name in names:
            yield taken, ("files", name), file
            yield taken, "mel.path", name
            yield taken, "mel.data", [name]
    yield from bounds("files.tekken.json.size", 0, PIECE)
    for size, count in ((PIECE, 1), (PIECE + 1, 0), (PIECE + 1, 1), (2 * PIECE + 1, 2)):
        spec = {"size": size, "sha256": "1a" * 32, "pieces": ["1a" * 32] * count}
        yield False, "files.tekken.json", spec
    whole = {"size": 2 * PIECE, "sha256": "1a" * 32, "pieces": ["1a" * 32] * 2}
    yield True, "files.tekken.json", whole
    yield False, "files.tekken.json.size", (1 << 53) - 1
    yield False, "files.tekken.json.size", 1 << 53

    for name in ("sample_rate", "n_fft", "hop_length", "n_mels"):
        least, most = (1000, 768_000) if name == "sample_rate" else (1, 1 << 24)
        for taken, path, value in bounds(f"config.audio.{name}", least, most):
            # Others than the base's disagree with what a stream looks back and ahead
            yield taken and name not in ("n_fft", "hop_length"), path, value
    yield from bounds("config.audio.global_log_mel_max", -100, 100, whole=False)
    for part in ("config.encoder", "config.decoder"):
        for name, most in (
            ("hidden_size", 1 << 24),
            ("intermediate_size", 1 << 24),
            ("sliding_window", 1 << 19),
        ):
            yield from bounds(f"{part}.{name}", 1, most)
        yield from bounds(f"{part}.num_hidden_layers", 1, 1024)
        for name in ("rope_theta", "rms_norm_eps"):
            yield from ((True, f"{part}.{name}", value) for value in (1, 1e-300, 1e18))
            yield from ((False, f"{part}.{name}", value) for value in (0, -1, 1.1e18, "1", True))
    yield from ((False, "config.encoder.head_dim", 63), (True, "config.encoder.head_dim", 62))
    yield from ((False, "config.decoder.num_key_value_heads", 4), (True, "config.decoder", {
        **BASE["config"]["decoder"], "num_key_value_heads": 3,
    }))  # fmt: skip
    yield from ((False, "config.encoder.downsample_factor", 3), (False, "config.audio", {
        **BASE["config"]["audio"], "frames_per_token": 4,
    }))  # fmt: skip
    yield from bounds("config.decoder.time_embedding_rank", 1, 1 << 24)

    for name in ("bos", "eos", "streaming_pad", "streaming_word", "first_text"):
        yield from bounds(f"tokens.{name}", 0, 5095)
    for name in ("left_pad_tokens", "right_pad_tokens"):
        yield from bounds(f"streaming.{name}", 0, 1024)
    for name in ("look_back_samples", "look_ahead_samples"):
        yield from (
            (False, path, value) for _, path, value in bounds(f"streaming.{name}", 0, 1 << 16)
        )
        yield from ((taken, f"streaming.{name}", value) for taken, value in LOOKS[name])
    yield from bounds("streaming.max_chunk_tokens", 1, 1024)
    for name in ("default_delay_tokens", "max_delay_tokens"):
        yield from bounds(f"streaming.{name}", 1, 30)
    yield from ((True, "streaming.trained_delay_tokens", value) for value in ([], [1, 30]))
    for value in ([0], [31], ["1"], [True], 3, {}, [[1]], [1.5]):
        yield False, "streaming.trained_delay_tokens", value

    yield from bounds("caches.encoder.num_layers", 1, 1024)
    for name in ("num_key_value_heads", "head_dim", "window"):
        yield from bounds(f"caches.encoder.{name}", 1, 1 << 24)
    for keep, capacity, step, taken in (
        *((0, 4, 4, True), (4, 8, 4, True), (408, 408, 4, False), (412, 408, 4, False)),
        *((150, 408, 4, False), (152, 407, 4, False), (152, 408, 0, False), (-4, 408, 4, False)),
        *((0, 1 << 20, 4, True), (0, (1 << 20) + 4, 4, False), (0, 0, 1, False)),
    ):
        values = {"keep": keep, "capacity": capacity, "rows_per_token": step}
        yield taken, "caches.encoder", {**BASE["caches"]["encoder"], **values}
    yield False, "caches.other", BASE["caches"]["encoder"]
    yield False, "caches", {"encoder": BASE["caches"]["encoder"]}

    ours = BASE["mel"]["inputs"][0]
    for path in ("mel.inputs", "precisions.q4.encoder.outputs"):
        yield from ((True, path, []), (False, path, {}), (False, path, [1]), (False, path, "x"))
        for name, taken in (("x" * 256, True), ("", False), ("x" * 257, False), (1, False)):
            yield taken, path, [{**ours, "name": name}]
        for dtype, taken in (("bfloat16", True), ("", False), ("a b", False), ("x" * 65, False)):
            yield taken, path, [{**ours, "dtype": dtype}]
        for shape, taken in (
            *(([], True), ([0, "a"], True), ([1] * 8, True), ([1] * 9, False), ([-1], False)),
            *(([1.5], False), ([""], False), ([True], False), ([None], False), ("1", False)),
        ):
            yield taken, path, [{**ours, "shape": shape}]
    for value, taken in ((None, True), (graph("encoder"), True), ({}, False), ([], False)):
        yield taken, "precisions.q4.encoder_batch", value
    yield from bounds("mel.parameters", 0, (1 << 53) - 1)
    for value, taken in (({}, True), ({"": 1}, False), ({"a": -1}, False), ({"a": "1"}, False)):
        yield taken, "mel.operators", value
    yield True, "mel.operators", {"__proto__": 1, "constructor": 2}
    for value in ("x", [1], {}, None, ["/a"]):
        yield False, "mel.data", value

    precision = BASE["precisions"]["q4"]
    for name, taken in (("q4-v1_2.x", True), ("__proto__", True), ("", False), ("a b", False)):
        yield taken, "precisions", {name: precision}
    yield from (
        (False, "precisions", {"x" * 65: precision}),
        (True, "precisions", {"x" * 64: precision}),
    )
    for value, taken in (("float16", True), ("float64", False), ("float32\n", False), ("", False)):
        yield taken, "precisions.q4.activation_dtype", value
    for value, taken in (
        (0, True),
        (4, True),
        (5, False),
        (-1, False),
        ("4", False),
        (True, False),
    ):
        yield taken, "precisions.q4.recipe.accuracy_level", value
    rule = precision["recipe"]["rules"][0]
    yield True, "precisions.q4.recipe.rules", []
    for change, taken in (
        *(
            ({"bits": 8}, True),
            ({"bits": 2}, False),
            ({"bits": "4"}, False),
            ({"bits": 4.5}, False),
        ),
        *(({"block_size": 128}, True), ({"block_size": 256}, False), ({"method": "new"}, True)),
        *(({"method": ""}, False), ({"tensors": "x" * 257}, False), ({"tensors": None}, False)),
    ):
        yield taken, "precisions.q4.recipe.rules", [{**rule, **change}]
    yield True, "precisions.q4.families", {"a": [], "b": [BASE["mel"]]}
    for value in ([], None, {"a b": []}, {"a": {}}, {"a": [1]}, {"a": [{}]}):
        yield False, "precisions.q4.families", value


def required(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the paths of all fields that must be there."""
    free = ("license", "families", "MatMulNBits", "portable", "q4")
    for key, value in values.items():
        if key not in free and not prefix.endswith(("files.", "operators.", "families.")):
            yield f"{prefix}{key}"
        if isinstance(value, dict) and key not in ("operators", "files"):
            yield from required(value, f"{prefix}{key}.")


def split(path: Keys) -> list[str]:
    if isinstance(path, tuple):
        return list(path)
    for name in sorted(BASE["files"], key=len, reverse=True):
        if path.startswith(f"files.{name}"):
            return ["files", name, *filter(None, path.removeprefix(f"files.{name}").split("."))]
    return path.split(".")


def edited(base: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    """Return a manifest after an edit."""
    values = json.loads(json.dumps(base))
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    if value is GONE:
        del place[keys[-1]]
    return values


def golden() -> dict[str, Any]:
    """Return the file's content: edits as (taken, keys, value); one without value deletes."""
    found = [
        [taken, split(path), *([] if value is GONE else [value])] for taken, path, value in cases()
    ]
    return {"base": BASE, "cases": found}


if __name__ == "__main__":
    values = golden()
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in values["cases"])
    text = f'{{"base": {json.dumps(values["base"], indent=1)},\n"cases": [\n{lines}\n]}}\n'
    (HERE / "manifests.json").write_text(text, "utf-8")
