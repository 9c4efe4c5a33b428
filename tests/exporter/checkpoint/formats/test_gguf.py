"""GGUF files as checkpoints.

Every type against the package's reading, shards, naming schemes, damage.
"""

from __future__ import annotations

import json
import shutil
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from reference import toy
from support import ggufs
from support.checkpoints import TINY, small_config, small_tensors

from voxtral_onnx.config import RELEASED, VoxtralConfig
from voxtral_onnx.errors import CheckpointError, QuantizationError
from voxtral_onnx.exporter.checkpoint import names, schemes
from voxtral_onnx.exporter.checkpoint.formats import gguf, gguf_model, shards
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.output import default_folder
from voxtral_onnx.quant.gguf import repack

MODEL = "model.gguf"
EMBEDDING = schemes.mistral_name(names.EMBEDDING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GGUF of one layer in Q4_0 and its tokenizer. Read only."""
    folder = tmp_path_factory.mktemp("gguf")
    ggufs.write_model(folder / MODEL, small_config(), small_tensors(), "Q4_0")
    shutil.copyfile(TINY / "tekken.json", folder / "tekken.json")
    return folder


@pytest.fixture
def own(folder, tmp_path):
    """A copy to damage."""
    return shutil.copytree(folder, tmp_path / "own")


@pytest.fixture
def refuse(run, tmp_path):
    """Exporting ends with exit code 3 and these words, and leaves no trace."""

    def refuse(source, *parts, tokenizer=TINY / "tekken.json"):
        option = ["--tokenizer", tokenizer] if tokenizer else []
        run("export", source, *option, "-o", tmp_path / "out").assert_refused(3, *parts)
        assert not (tmp_path / "out").exists()

    return refuse


@pytest.fixture(scope="module")
def every_type(tmp_path_factory):
    """A matrix of every type, of 24 rows and 512 columns.

    The file, and the values as the package reads them.
    """
    path = tmp_path_factory.mktemp("types") / "types.gguf"
    values = np.random.default_rng(5).standard_normal((24, 512), dtype=np.float32)
    contents = {kind: (ggufs.stored(values, kind), kind) for kind in ggufs.TYPES}
    lists = {"a.list": [1, 2, 3], "of.names": ["x", "yz"], "a.number": 7, "a.name": "toy"}
    ggufs.write(path, contents, **lists)
    return path, {kind: ggufs.read(*content) for kind, content in contents.items()}


def test_types_are_those_of_ggml():
    for number, encoding in gguf.TYPES.items():
        known = GGMLQuantizationType(number)
        assert (encoding.name, (encoding.block_size, encoding.block_bytes)) == (
            known.name,
            GGML_QUANT_SIZES[known],
        )


@pytest.mark.parametrize("known", GGMLQuantizationType, ids=lambda known: known.name)
def test_every_type_of_ggml_is_read_or_refused_by_its_name(known, tmp_path):
    content = bytearray(ggufs.header([(b"a", (256, 2), 0)], size=4096))
    content[content.index(b"a" + struct.pack("<I", 2)) + 21] = known  # the type behind the shape
    (tmp_path / MODEL).write_bytes(content)
    if known in gguf.TYPES:
        assert gguf.open_gguf([tmp_path / MODEL])[0]["a"].encoding.name == known.name
        return
    with pytest.raises(CheckpointError, match=rf"{MODEL}: a: expected .*, got {known.name}; take"):
        gguf.open_gguf([tmp_path / MODEL])


@pytest.mark.parametrize("kind", ggufs.TYPES)
def test_rows_and_columns_are_what_the_package_reads(kind, every_type):
    path, values = every_type
    tensor, wanted = gguf.open_gguf([path])[0][kind], values[kind]
    assert tensor.shape == (24, 512)
    for start, stop in ((0, 24), (0, 1), (23, 24), (5, 17)):
        assert np.array_equal(tensor.rows(start, stop), wanted[start:stop])
    for start, stop in ((0, 512), (0, 1), (511, 512), (31, 257), (256, 288)):
        assert np.array_equal(tensor.columns(start, stop), wanted[:, start:stop].T)


def test_header_is_what_the_package_reads(every_type):
    path, _ = every_type
    tensors, metadata = gguf.open_gguf([path])
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    assert tensors.keys() == theirs.keys()
    for name, tensor in tensors.items():
        assert tensor.span.pieces[0].offset == theirs[name].data_offset
        assert tensor.num_bytes == theirs[name].n_bytes
    assert metadata == {"general.architecture": "voxtral", "a.number": 7, "a.name": "toy"}


@given(st.lists(st.integers(1, 200_000), max_size=4))
def test_a_file_cut_anywhere_holds_the_same_tensors(every_type, cuts):
    path, values = every_type
    content = path.read_bytes()
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    parts = path.parent / "parts"
    parts.mkdir(exist_ok=True)
    shards = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        shards.append(parts / str(number))
        shards[-1].unlink(missing_ok=True)  # one that is mapped must not change
        shards[-1].write_bytes(content[start:stop])
    tensors, _ = gguf.open_gguf(shards)
    for kind, tensor in tensors.items():
        assert np.array_equal(tensor.rows(3, 20), values[kind][3:20])
        assert np.array_equal(tensor.columns(30, 300), values[kind][:, 30:300].T)
        tensor.release(3, 20)


@pytest.mark.parametrize("layout", schemes.GGUF_SCHEMES, ids=lambda layout: layout.name)
def test_every_naming_scheme_is_the_same_model(layout, toy_checkpoint, tmp_path):
    """Mistral's and voxtral.cpp's names keep interleaved rotary rows.

    The rows of the others are split in halves.
    """
    config, interleaved = toy.toy_config(), ggufs.mistral_tensors(toy_checkpoint)
    stored = {name: interleaved[schemes.mistral_name(name)] for name in names.tensor_shapes(config)}
    ours = {name: ggufs.half_split(values, name, config) for name, values in stored.items()}
    tensors = {
        layout.rename(name): (stored if layout.interleaved else ours)[name] for name in stored
    }
    tensors |= {name: np.ones(4, np.float32) for name in layout.extras}
    ggufs.write_model(tmp_path / MODEL, config, tensors, "F16")
    opened = open_checkpoint(tmp_path / MODEL, toy_checkpoint / "tekken.json")
    assert opened.layout == layout.name and opened.config == config
    assert opened.tensors.keys() == ours.keys()
    for name, tensor in opened.tensors.items():
        wanted = ours[name].astype(np.float16) if ours[name].ndim == 2 else ours[name]
        assert np.array_equal(tensor.rows(), wanted), name
        if wanted.ndim == 2:
            assert np.array_equal(tensor.rows(5, 9), wanted[5:9]), name
            assert np.array_equal(tensor.columns(5, 9), wanted[:, 5:9].T), name


@pytest.mark.parametrize(
    ("layout", "name", "theirs"),
    [
        ("voxtral.cpp", "audio_tower.layers.3.self_attn.o_proj.bias", "enc.blk.3.attn_o.bias"),
        ("voxtral.cpp", "audio_tower.norm.weight", "enc.norm.weight"),
        ("voxtral.cpp", "audio_tower.embedder.conv2.bias", "enc.conv1.bias"),
        ("voxtral.cpp", "multi_modal_projector.linear_2.weight", "adapter.2.weight"),
        (
            "voxtral.cpp",
            "language_model.layers.9.post_attention_layernorm.weight",
            "dec.blk.9.ffn_norm.weight",
        ),
        (
            "voxtral.cpp",
            "language_model.layers.9.ada_rms_norm.linear2.weight",
            "dec.blk.9.ada2.weight",
        ),
        ("voxtral.cpp", "language_model.norm.weight", "norm.weight"),
        (
            "transcribe.cpp",
            "audio_tower.layers.3.self_attn.o_proj.bias",
            "enc.blocks.3.attn.out.bias",
        ),
        ("transcribe.cpp", "audio_tower.norm.weight", "enc.final_norm.weight"),
        (
            "transcribe.cpp",
            "language_model.layers.9.self_attn.o_proj.weight",
            "dec.blocks.9.attn.o.weight",
        ),
        (
            "transcribe.cpp",
            "language_model.layers.9.mlp.down_proj.weight",
            "dec.blocks.9.ffn.down.weight",
        ),
        ("transcribe.cpp", "language_model.norm.weight", "dec.output_norm.weight"),
        (
            "audio.cpp",
            "audio_tower.layers.3.input_layernorm.weight",
            "audio_tower.layers.3.self_attn_layer_norm.weight",
        ),
        (
            "audio.cpp",
            "language_model.layers.9.ada_rms_norm.linear2.weight",
            "language_model.model.layers.9.ada_rms_norm.linear2.weight",
        ),
        ("CrispASR", "audio_tower.embedder.conv2.bias", "audio.conv.2.bias"),
        ("CrispASR", "audio_tower.layers.3.self_attn.o_proj.bias", "audio.blk.3.attn_out.bias"),
        (
            "CrispASR",
            "audio_tower.layers.3.post_attention_layernorm.weight",
            "audio.blk.3.ffn_norm.weight",
        ),
        ("CrispASR", "audio_tower.norm.weight", "audio.ln_post.weight"),
        ("CrispASR", "multi_modal_projector.linear_1.weight", "proj1.weight"),
        ("CrispASR", "language_model.embed_tokens.weight", "token_embd.weight"),
        (
            "CrispASR",
            "language_model.layers.9.self_attn.o_proj.weight",
            "blk.9.attn_output.weight",
        ),
        ("CrispASR", "language_model.layers.9.mlp.gate_proj.weight", "blk.9.ffn_gate.weight"),
        (
            "CrispASR",
            "language_model.layers.9.ada_rms_norm.linear1.weight",
            "blk.9.ada_norm_down.weight",
        ),
        ("CrispASR", "language_model.norm.weight", "output_norm.weight"),
        ("transcribe.cpp", "language_model.embed_tokens.weight", "dec.token_embd.weight"),
    ],
)
def test_names_of_other_converters(layout, name, theirs):
    (known,) = (known for known in schemes.GGUF_SCHEMES if known.name == layout)
    assert known.rename(name) == theirs


def test_a_file_that_does_not_say_is_the_released_model(tmp_path, refuse):
    ggufs.write_model(tmp_path / MODEL, None, small_tensors(), "F16")
    refuse(
        tmp_path / MODEL,
        "expected the 711 tensors",
        "misshapen "
        "mm_streams_embeddings.embedding_module.whisper_encoder.conv_layers.0.conv.weight: "
        "expected [1280, 128, 3], got [64, 128, 3]",
    )


def test_the_released_model_is_that_of_its_params():
    from runpy import run_path

    params = run_path(str(TINY.parents[1] / "bench" / "twin.py"))["PARAMS"]
    assert VoxtralConfig.from_params(params) == RELEASED


def test_hyperparameters_that_are_none(tmp_path, refuse):
    contents = {name: (value.astype(np.float32), "F32") for name, value in small_tensors().items()}
    ggufs.write(tmp_path / MODEL, contents, **{gguf_model.CONFIG: json.dumps({"audio": {}})})
    refuse(tmp_path / MODEL, gguf_model.CONFIG, "not the hyperparameters")


def test_the_tokenizer_is_beside_the_file_or_named(own, tmp_path, refuse):
    assert open_checkpoint(own / MODEL).tokenizer == open_checkpoint(own).tokenizer
    (own / "tekken.json").unlink()
    refuse(
        own / MODEL,
        "there is no",
        "tekken.json; pass Mistral's: --tokenizer tekken.json",
        tokenizer=None,
    )
    refuse(
        own / MODEL, "there is no", str(tmp_path / "none.json"), tokenizer=tmp_path / "none.json"
    )
    values = json.loads((TINY / "tekken.json").read_text())
    values["config"]["default_vocab_size"] = 4000
    (own / "tekken.json").write_text(json.dumps(values))
    refuse(own / MODEL, "vocabulary: expected 5096", "got 4000", tokenizer=None)


@pytest.mark.parametrize("first", ["aa", "00", "000"])
def test_shards_are_found(first, folder, tmp_path):
    wanted = open_checkpoint(folder).fingerprint()
    shards = ggufs.cut(folder / MODEL, 60_001, tmp_path / "shards", first)
    assert len(shards) > 5
    shutil.copyfile(TINY / "tekken.json", tmp_path / "shards" / "tekken.json")
    for source in (shards[0], tmp_path / "shards", tmp_path / "shards" / "shard-*"):
        checkpoint = open_checkpoint(source)
        assert checkpoint.fingerprint() == wanted
        assert [path.name for path in checkpoint.files] == [
            *(shard.name for shard in shards),
            "tekken.json",
        ]


def test_more_than_26_shards_are_in_order(folder, tmp_path):
    parts = ggufs.cut(folder / MODEL, 9_001, tmp_path / "shards")
    assert parts[26].name == "shard-ba" and shards.find(parts[0]) == parts


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (
            lambda shards: shards[2].unlink(),
            ["expected the shard shard-ac after shard-ab, found shard-ad"],
        ),
        (lambda shards: shards[-1].unlink(), ["ends at byte", "is missing"]),
        (
            lambda shards: [shard.unlink() for shard in shards[1:]],
            ["its 1 shards have", "shard-ab is missing"],
        ),
        (
            lambda shards: shards[1].write_bytes(b"x" * 100),
            ["shard-ab: expected a shard of 60,001 bytes", "found 100"],
        ),
        (
            lambda shards: shards[-1].write_bytes(b"x" * 60_002),
            ["found 60,002: incomplete or out of order"],
        ),
        (
            lambda shards: shards[-1].write_bytes(b""),
            ["expected a part of a GGUF, the file has 0 bytes"],
        ),
        (
            lambda shards: swap(shards[0], shards[1]),
            ["found a file that begins with", "name the first"],
        ),
        (lambda shards: add_shard(shards), ["not a shard of"]),
    ],
    ids=[
        "middle-missing",
        "last-missing",
        "only-first",
        "cut",
        "too-long",
        "empty",
        "out-of-order",
        "stray",
    ],
)
def test_shards_that_do_not_fit(damage, parts, folder, tmp_path, refuse):
    shards = ggufs.cut(folder / MODEL, 60_001, tmp_path / "shards")
    damage(shards)
    refuse(shards[0], *parts)


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def add_shard(shards):
    """One more that has nothing to say, and the one before filled up to its size."""
    shards[-1].write_bytes(shards[-1].read_bytes().ljust(60_001, b"\0"))
    shards[-1].with_name(f"shard-a{chr(ord(shards[-1].name[-1]) + 1)}").write_bytes(b"x" * 10)


def test_swapped_shards_of_equal_size_are_noticed_by_their_scales(folder, tmp_path):
    """Two in the middle.

    Sizes tell nothing, but blocks out of step have scales that are no numbers.
    """
    shards = ggufs.cut(folder / MODEL, 60_001, tmp_path / "shards")
    swap(shards[1], shards[2])
    with pytest.raises(QuantizationError, match=r"non-finite scales.*shards are out of order"):
        for tensor in open_checkpoint(shards[0], folder / "tekken.json").tensors.values():
            if tensor.encoding == gguf.TYPES[2]:
                repack(tensor.stored_rows(), 4, tensor.name)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("models/voxtral-q4.gguf", "voxtral-q4-onnx"),
        ("models/Voxtral Q4.GGUF", "Voxtral Q4-onnx"),
        ("models/shards/shard-*", "shard-onnx"),
        ("models/shards/*", "shards-onnx"),
        ("models/shards", "shards-onnx"),
        ("shard-aa", "shard-aa-onnx"),
        ("voxtral-4b/", "voxtral-4b-onnx"),
        ("tiny", "tiny-onnx"),
    ],
)
def test_artifacts_are_called_after_their_source(source, name):
    assert default_folder(source) == Path(name)


def test_one_of_several_ggufs_is_refused(own, refuse):
    tensors = {name: (value.astype(np.float32), "F32") for name, value in small_tensors().items()}
    ggufs.write(own / MODEL, tensors, **{"split.count": 3})
    refuse(own / MODEL, "one of 3 GGUFs that hold a model together", "--merge")


def test_an_artifact_is_no_checkpoint(tmp_path, refuse):
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "voxtral_onnx.json").write_text("{}")
    refuse(tmp_path / "artifact", "an artifact, not a checkpoint")


def test_names_that_match_no_gguf(own, tmp_path, refuse):
    shutil.copyfile(own / MODEL, own / "other.gguf")
    refuse(own, "several GGUFs: model.gguf, other.gguf; name one of them")
    refuse(own / "*.json", "1 files, none of which begins like a GGUF")
    refuse(
        own / "tekken.json",
        "expected a checkpoint folder or a GGUF, found a file that begins with b'{",
    )
    refuse(own / "nothing.gguf", "expected a checkpoint folder or a GGUF, found nothing")


@pytest.mark.parametrize(
    ("at", "content", "parts"),
    [
        (0, b"GGML", ["found a file that begins with b'GGML'"]),
        (4, b"\1\0\0\0", ["expected GGUF version 2 or 3, got 1"]),
        (4, b"\0\0\0\3", ["expected GGUF version 2 or 3, got 50331648"]),
        (8, b"\xff" * 8, ["18,446,744,073,709,551,615 tensors or keys", "damaged"]),
        (8, b"\0\1" + bytes(6), ["expected 1 to 4 axes, got 0"]),
        (16, b"\xff" * 8, ["18,446,744,073,709,551,615 tensors or keys", "damaged"]),
        (24, b"\xff" * 8, ["damaged"]),
    ],
)
def test_damaged_header(at, content, parts, own, refuse):
    damaged = bytearray((own / MODEL).read_bytes())
    damaged[at : at + len(content)] = content
    (own / MODEL).write_bytes(damaged)
    refuse(own / MODEL, MODEL, *parts)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda reader: set_part(reader.tensors[3].field.parts[4], 99),
            ["expected one of the types F32", "got type 99, which is not known"],
        ),
        (
            lambda reader: set_part(reader.tensors[3].field.parts[4], 39),
            ["got MXFP4; take a GGUF in one of them", "Q4_0 and Q8_0", "the original checkpoint"],
        ),
        (
            lambda reader: set_part(reader.tensors[3].field.parts[2], 5),
            ["expected 1 to 4 axes, got 5"],
        ),
        (
            lambda reader: set_part(reader.tensors[3].field.parts[5], 1 << 40),
            ["expected its values from byte", "got 1,099,511,627,776"],
        ),
        (
            lambda reader: set_part(reader.tensors[3].field.parts[3], 1 << 40),
            ["truncated", "ends at byte"],
        ),
        (lambda reader: set_part(reader.tensors[3].field.parts[3], 33), ["whole blocks of Q4_0"]),
        (lambda reader: set_part(reader.tensors[3].field.parts[3], 0), ["empty"]),
        (
            lambda reader: set_part(reader.tensors[3].field.parts[3], 1 << 63),
            ["truncated", "ends at byte"],
        ),
        (
            lambda reader: set_part(reader.fields["general.architecture"].parts[2], 13),
            ["unknown kind of metadata 13"],
        ),
    ],
)
def test_damaged_entry(change, parts, own, refuse):
    reader = GGUFReader(own / MODEL, "r+")
    matrix = next(
        number for number, tensor in enumerate(reader.tensors) if tensor.tensor_type.name == "Q4_0"
    )
    reader.tensors[3] = reader.tensors[matrix]
    change(reader)
    reader.data.flush()
    refuse(own / MODEL, *parts)


def set_part(part, value):
    part[0] = value


ALIGNED = "general.alignment"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ggufs.header([(b"a", (8,), 0), (b"b", (8,), 0)], size=64), "b: expected .* from byte 32"),
        (ggufs.header([(b"a", (8,), 0), (b"b", (8,), 16)], size=64), "b: expected .* from byte 32"),
        (ggufs.header([(b"a", (8,), 32), (b"b", (8,), 0)], size=64), "a: expected .* from byte 0"),
        (ggufs.header([(b"a", (8,), 0), (b"b", (8,), 64)], size=96), "b: expected .* from byte 32"),
        (ggufs.header([(b"a", (8,), 0), (b"a", (8,), 32)], size=64), "a appears twice"),
        (ggufs.header([(b"a", (0,), 0)]), r"a \[0\]: empty"),
        (ggufs.header([(b"a", (1 << 63, 1 << 63, 4), 0)], size=64), "a ends at byte"),
        (ggufs.header([(b"\xff", (8,), 0)], size=32), "damaged header"),
        (ggufs.header(num_tensors=10**9), "1,000,000,000 tensors or keys"),
        (ggufs.header(keys=[(b"a", 4, bytes(4))] * 2), "the key a appears twice"),
        (ggufs.header(keys=[(b"a", 9, struct.pack("<IQ", 9, 1))]), "unknown kind of metadata 9"),
        (ggufs.header(keys=[(b"a", 9, struct.pack("<IQ", 8, 1 << 60))]), "truncated or damaged"),
        (ggufs.header(keys=[(b"a", 9, struct.pack("<IQ", 10, 1 << 61))]), "truncated or damaged"),
        (
            ggufs.header(keys=[(b"a", 9, struct.pack("<IQQ", 8, 2, (1 << 64) - 1))]),
            "truncated or damaged",
        ),
        (ggufs.header(keys=[(b"a", 8, struct.pack("<Q", 1 << 40))]), "a name of 1,099,511"),
        *(
            (ggufs.header(keys=[(ALIGNED.encode(), 4, value)]), "expected a power of two")
            for value in (bytes(4), b"\x18\0\0\0")
        ),
        *(
            (ggufs.header(keys=[(ALIGNED.encode(), kind, value)]), "an unsigned number of 32 bits")
            for kind, value in [
                (5, b"\x20\0\0\0"),
                (10, b"\x20" + bytes(7)),
                (6, b"\0\0\0\x42"),  # 32 as a float
                (7, b"\1"),
                (8, struct.pack("<Q2s", 2, b"32")),
            ]
        ),
        (
            ggufs.header([(b"a", (8,), 0)], [(ALIGNED.encode(), 4, b"\0\0\0\x80")], size=32),
            "a ends at byte",
        ),
        (
            ggufs.header(keys=[(b"a", 9, struct.pack("<IQ", 0, 64 << 20) + bytes(64 << 20))]),
            "expected a header of at most 33,554,432 bytes",
        ),
    ],
)
def test_headers_that_lie(content, reason, tmp_path):
    path = tmp_path / MODEL
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        gguf.open_gguf([path])


def test_what_is_accepted_stands_where_the_package_has_it(tmp_path):
    """Headers with a byte changed, read by both."""
    keys = [(ALIGNED.encode(), 4, struct.pack("<I", 64)), (b"a.text", 8, struct.pack("<Q", 0))]
    good = ggufs.header([(b"a", (2, 3), 0), (b"b", (5,), 64), (b"c", (1,), 128)], keys, size=256)
    accepted = 0
    for at in range(24, len(good) - 256):
        for value in (0, 1, 64, 255):
            content = good[:at] + bytes([value]) + good[at + 1 :]
            path = tmp_path / f"{at}-{value}"
            path.write_bytes(content)
            try:
                tensors, _ = gguf.open_gguf([path])
            except CheckpointError:
                continue
            theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
            accepted += 1
            assert tensors.keys() == theirs.keys()
            for name, tensor in tensors.items():
                assert tensor.shape == tuple(int(size) for size in theirs[name].shape)[::-1]
                assert tensor.span.pieces[0].offset == theirs[name].data_offset
                assert tensor.num_bytes == theirs[name].n_bytes
    assert accepted > 100


def test_vectors_and_convolutions_are_floats(own, refuse):
    tensors = {name: (value.astype(np.float32), "F32") for name, value in small_tensors().items()}
    ggufs.write(
        own / MODEL,
        tensors | {"norm.weight": (ggufs.stored(np.ones((1, 64), np.float32), "Q8_0")[0], "Q8_0")},
    )
    refuse(
        own / MODEL, "norm.weight [64]: expected rows in whole blocks of Q8_0", "vectors as floats"
    )


def test_a_truncated_file_is_a_checkpoint_error_wherever_it_ends(folder, tmp_path):
    content = (folder / MODEL).read_bytes()
    end = max(tensor.data_offset + tensor.n_bytes for tensor in GGUFReader(folder / MODEL).tensors)
    for size in {*range(0, 4000, 37), *range(4000, end, 40_000), end - 1}:
        path = tmp_path / f"{size}.gguf"
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            open_checkpoint(path, folder / "tekken.json")


@pytest.mark.parametrize("size", [1 << 16, 100_000])
def test_a_file_whose_end_has_not_come_is_refused(size, own, refuse):
    """Some programs reserve the whole size of a download at its start."""
    with (own / MODEL).open("r+b") as file:
        file.seek(-size, 2)
        file.write(bytes(size))
    refuse(own / MODEL, "its last 65,536 bytes are zeros", "download it again")


@given(st.integers(4, 3000), st.integers(0, 255))
def test_a_changed_byte_of_the_header_is_refused_or_harmless(folder, at, value):
    content = bytearray((folder / MODEL).read_bytes())
    content[at] = value
    path = folder.parent / f"changed-{at}-{value}.gguf"
    path.write_bytes(content)
    try:
        open_checkpoint(path, folder / "tekken.json")
    except CheckpointError:
        pass
    finally:
        path.unlink()


def test_a_gguf_that_changes_while_it_is_read(own):
    checkpoint = open_checkpoint(own / MODEL)
    checkpoint.check_unchanged()
    (own / MODEL).touch()
    with pytest.raises(CheckpointError, match=r"changed while it was read: model\.gguf"):
        checkpoint.check_unchanged()
