"""The manifest `voxtral_onnx.json`: the contract between export and every host.

The exporter writes it last; the runtime, the page and other hosts read names, shapes, rules and
hashes from it and repeat none of them in code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from .config import Layers, Positive, TransformerConfig, VoxtralConfig
from .contents import check_contents, differences
from .decode import Count, Name, RelativeName, Sentence, Sha256, Size, decode, read_within
from .errors import ArtifactError
from .escaping import quoted
from .files import FileSpec, atomic_write, is_below, is_lfs_pointer, size_of
from .limits import MANIFEST

FORMAT = 2
READ_FORMATS = (1, FORMAT)  # 1 has further fields, which no host reads (docs/artifact.md)
FILE_NAME = "voxtral_onnx.json"
TOKENIZER = "tekken.json"
# Files of the verification's results, beside the manifest and not named in it
CERTIFICATE = ("certificate.json", "certificate.html")
MAX_DELAY_TOKENS = 30  # 2400 ms, the longest delay the model was trained with

Samples = Annotated[int, Meta(ge=0, le=1 << 16)]
Padding = Annotated[int, Meta(ge=0, le=1024)]  # tokens of silence around every recording
Delay = Annotated[int, Meta(ge=1, le=MAX_DELAY_TOKENS)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 24)]
Role = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9_.-]+\Z")]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a graph.

    A symbolic axis is a name or an integer times a name, such as `8*chunk`.
    """

    name: Name
    dtype: Role  # NumPy's name
    shape: Annotated[tuple[Count | Name, ...], Meta(max_length=8)]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX file: its inputs and outputs, its data files and its operators."""

    path: RelativeName  # below the artifact folder
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    data: tuple[RelativeName, ...]  # external data files, below the artifact folder
    parameters: Count  # weights bound, counted before quantisation
    operators: Mapping[Name, Count]  # nodes by operator

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names of the graph's own file and its data files."""
        return (self.path, *self.data)


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """The quantisation of the tensors that match one pattern."""

    tensors: Name  # shell pattern over module names
    bits: Literal[4, 8]
    block_size: Literal[16, 32, 64, 128]
    method: Name  # perhaps one that this package does not have


@dataclass(frozen=True, slots=True)
class RecipeSpec:
    """The recipe that an artifact was quantised by; `quant.recipe.Recipe` is one to apply."""

    name: Name
    accuracy_level: Literal[0, 1, 2, 3, 4]  # of MatMulNBits
    rules: tuple[RuleSpec, ...]

    @property
    def title(self) -> str:
        """Return its name with a hash of its rules, which tells recipes of one name apart."""
        if not self.rules:
            return "not quantised"
        rules = json.dumps([self.accuracy_level, *map(asdict, self.rules)], sort_keys=True)
        return f"recipe {quoted(self.name)}, sha256 {sha256(rules.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Precision:
    """One way to run the model: an activation type and a quantisation recipe."""

    activation_dtype: Annotated[str, Meta(pattern=r"\Afloat(16|32)\Z")]
    recipe: RecipeSpec
    encoder: GraphSpec
    decoder: GraphSpec
    # Graphs that other hosts run
    families: Mapping[Role, tuple[GraphSpec, ...]] = field(default_factory=dict)
    # Encoders for several streams, on the encoder's weights; earlier versions made none
    encoder_batch: GraphSpec | None = None
    encoder_paged: GraphSpec | None = None  # on CUDA, with activations of float16

    @property
    def native(self) -> dict[str, GraphSpec]:
        """Return the graphs that this package runs, by role."""
        pair = {"encoder": self.encoder, "decoder": self.decoder}
        return pair | self.several

    @property
    def several(self) -> dict[str, GraphSpec]:
        """Return the encoders for several streams, by role."""
        found = {"encoder_batch": self.encoder_batch, "encoder_paged": self.encoder_paged}
        return {role: graph for role, graph in found.items() if graph is not None}

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names of all files of the graphs that this package runs."""
        return tuple(dict.fromkeys(file for graph in self.native.values() for file in graph.files))

    @property
    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the graphs that this package runs, and those of all other families."""
        return (
            *self.native.values(),
            *(graph for graphs in self.families.values() for graph in graphs),
        )


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """The fixed buffer of one key-value cache, and the rule by which its rows are shifted.

    Positions fill rows from 0. When row `capacity` would be written, the last `keep` rows are
    shifted to the front first. So the row of a position depends on the position only, and no call
    may write rows on both sides of a shift.
    """

    num_layers: Layers
    num_key_value_heads: Size
    head_dim: Size
    rope_theta: Positive
    rows_per_token: Size
    window: Size  # keys a query sees, itself included
    keep: Count  # rows that a shift keeps; at least window - 1, a multiple of rows_per_token
    capacity: Annotated[
        int, Meta(ge=1, le=1 << 20)
    ]  # rows of the buffer, a multiple of rows_per_token

    def __post_init__(self):
        if (
            self.keep >= self.capacity
            or self.keep % self.rows_per_token
            or self.capacity % self.rows_per_token
        ):
            raise ValueError(
                f"cache of {self.capacity} rows cannot keep {self.keep} in steps of "
                f"{self.rows_per_token}"
            )

    @classmethod
    def of(
        cls, stack: TransformerConfig, rows_per_token: int, slack: int, context: int | None = None
    ) -> CacheSpec:
        """Return a spec with a buffer of `context` rows and about `slack` more.

        Without `context` the buffer holds the whole window; both numbers are rounded up to whole
        tokens.
        """
        visible = min(stack.sliding_window, context or stack.sliding_window)
        keep = _round_up(visible - 1, rows_per_token)
        return cls(
            num_layers=stack.num_hidden_layers,
            num_key_value_heads=stack.num_key_value_heads,
            head_dim=stack.head_dim,
            rope_theta=stack.rope_theta,
            rows_per_token=rows_per_token,
            window=stack.sliding_window,
            keep=keep,
            capacity=keep + _round_up(slack, rows_per_token),
        )

    def row(self, position: int) -> int:
        """Return the buffer row of an absolute position."""
        if position < self.capacity:
            return position
        return self.keep + (position - self.keep) % (self.capacity - self.keep)

    def slots_left(self, position: int) -> int:
        """Return the number of rows that a call from `position` on may write before a shift."""
        return self.capacity - self.row(position)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids of the special tokens that a host needs, looked up by name in `tekken.json`."""

    bos: TokenId
    eos: TokenId
    streaming_pad: TokenId
    streaming_word: TokenId
    first_text: TokenId  # ids below are special and have no bytes

    @property
    def largest(self) -> int:
        """Return the largest of these ids."""
        return max(self.bos, self.eos, self.streaming_pad, self.streaming_word, self.first_text)


@dataclass(frozen=True, slots=True)
class Streaming:
    """The constants that turn audio into positions (MODEL.md, steps 1, 2 and 7)."""

    left_pad_tokens: Padding  # silence before the audio
    # Silence after it, besides the delay and the rest of the last token
    right_pad_tokens: Padding
    look_back_samples: Samples  # a mel frame's window starts this far before the frame
    look_ahead_samples: Samples  # samples a token needs beyond its own
    max_chunk_tokens: Annotated[int, Meta(ge=1, le=1024)]  # tokens worth encoding in one call
    default_delay_tokens: Delay
    max_delay_tokens: Delay
    trained_delay_tokens: tuple[Delay, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `voxtral_onnx.json`: all that a host needs to run the artifact."""

    format: int
    generator: Name
    fingerprint: Sha256  # of the checkpoint's weights, the same for every layout
    scope: Sentence | None  # the model's purpose in one sentence, where it is a limited one
    # The hub's identifier for the weights' licence, where it is known
    license: Name | None = field(default=None, kw_only=True)
    config: VoxtralConfig
    tokens: Tokens
    streaming: Streaming
    caches: Mapping[str, CacheSpec]  # encoder, decoder
    mel: GraphSpec
    precisions: Mapping[Role, Precision]
    files: Mapping[RelativeName, FileSpec]

    def __post_init__(self):
        if self.caches.keys() != {"encoder", "decoder"}:
            raise ValueError("caches: expected those of encoder and decoder")
        if self.tokens.largest >= self.config.decoder.vocab_size:
            raise ValueError(f"tokens: expected ids below {self.config.decoder.vocab_size:,}")
        half, hop = self.config.audio.n_fft // 2, self.config.audio.hop_length
        found = self.streaming.look_back_samples, self.streaming.look_ahead_samples
        if found != (half, half - hop):
            raise ValueError(
                f"streaming: expected to look {half} samples back and {half - hop} ahead, got "
                f"{found}"
            )

    def graphs(self, precisions: Iterable[str] | None = None) -> Iterator[GraphSpec]:
        """Yield the mel graph and the graphs of all precisions, or of some."""
        yield self.mel
        for name in self.precisions if precisions is None else precisions:
            yield from self.precisions[name].graphs

    @property
    def weights(self) -> frozenset[str]:
        """Return the names of all external data files."""
        return frozenset(name for graph in self.graphs() for name in graph.data)

    def files_of(self, precisions: Iterable[str]) -> dict[str, FileSpec]:
        """Return the files that are needed to run some precisions.

        Raises:
            ArtifactError: the manifest lacks size and hash of a file that a graph has.
        """
        names = (
            TOKENIZER,
            *self.mel.files,
            *(file for name in precisions for file in self.precisions[name].files),
        )
        if lost := sorted(set(names) - self.files.keys()):
            raise ArtifactError(
                f"{FILE_NAME}: gives no size and hash of {', '.join(lost)}; export again"
            )
        return {name: self.files[name] for name in names}

    def family(self, precision: str, name: str) -> tuple[GraphSpec, ...]:
        """Return the graphs of a family of hosts in one precision.

        Raises:
            ArtifactError: the artifact does not have that family in that precision.
        """
        if precision not in self.precisions or name not in self.precisions[precision].families:
            raise ArtifactError(
                f"the artifact has no graphs of the family {name} in {precision}; add them: "
                f"voxtral-onnx export SOURCE -o ARTIFACT --precision {precision} --family "
                f"native,{name}"
            )
        return self.precisions[precision].families[name]

    def held(self, folder: Path) -> list[str]:
        """Return the precisions that a folder has a file of, as a download may fetch only one."""
        return [
            name
            for name, precision in self.precisions.items()
            if any(size_of(folder / file) is not None for file in precision.files)
        ]

    def write(self, folder: Path) -> None:
        """Write the manifest in this version's format, which marks the artifact as complete.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        values = asdict(self) | {"format": FORMAT}
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        atomic_write(folder / FILE_NAME, text.encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and validate the manifest of an artifact folder.

        Raises:
            ArtifactError: the folder has no manifest, or one that `decode` refuses.
        """
        path = folder / FILE_NAME
        try:
            content = read_within(path, MANIFEST, _cannot_be_read(path))
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactError(
                f"{folder}: no {FILE_NAME}: not an exported artifact, or its export did not "
                "finish; run: voxtral-onnx export SOURCE"
            ) from None
        return cls.decode(content, str(path))

    @classmethod
    def decode(cls, content: bytes, name: str) -> Manifest:
        """Decode and validate a manifest, which error messages call by `name`.

        Raises:
            ArtifactError: the content is of another format or does not parse.
        """
        found = bytes(decode(_Format, content, _cannot_be_read(name)).format).decode()
        if found not in map(str, READ_FORMATS):
            newer = re.fullmatch("[1-9][0-9]{0,8}", found) and int(found) > FORMAT
            advice = "upgrade voxtral-onnx" if newer else "export again"
            known = " or ".join(map(str, READ_FORMATS))
            raise ArtifactError(f"{name}: expected format {known}, got {found[:40]}; {advice}")
        return decode(
            cls,
            content,
            lambda reason: ArtifactError(f"{name}: not a valid manifest ({reason}); export again"),
        )

    def check_files(
        self,
        folder: Path,
        precisions: Iterable[str] | None = None,
        *,
        hashes: bool = False,
        no_links_out: bool = False,
    ) -> None:
        """Check the files of an artifact folder against the manifest.

        Args:
            folder: the artifact's.
            precisions: those whose files must all be there, None for all; other files that are
                there are checked too.
            hashes: compare contents, not only sizes.
            no_links_out: refuse links that lead out of the folder; for callers that serve or upload
                its files, because such a link could expose any file of the user's.

        Raises:
            ArtifactError: files are missing or differ; the message names each.
        """
        wrong, needed = [], self.files if precisions is None else self.files_of(precisions)
        there: dict[Path, FileSpec] = {}
        for name, expected in self.files.items():
            path = folder / name
            if no_links_out and not is_below(folder, path):
                wrong.append(f"{name}: a link that leads out of the folder")
                continue
            size = size_of(path)
            if size is None:
                wrong += [f"{name}: missing"] if name in needed else []
            elif size != expected.size and is_lfs_pointer(path):
                wrong.append(f"{name}: a Git LFS pointer, not the file; run: git lfs pull")
            elif size != expected.size:
                wrong.append(f"{name}: expected {expected.size:,} bytes, got {size:,}")
            else:
                there[path] = expected
        for path, reason in differences(there).items() if hashes else ():
            wrong.append(f"{path.relative_to(folder).as_posix()}: {reason}")
        if wrong:
            raise ArtifactError(
                f"{folder}: " + "; ".join(wrong) + "; copy the artifact again, "
                "download or export it"
            )

    def check_contents(
        self, folder: Path, names: Iterable[str], *, threads: int | None = None
    ) -> None:
        """Check the hashes of some files against the manifest before they are used.

        Weights that matched once and have not been written since are not read again.

        Args:
            folder: the artifact's, whose sizes were checked before.
            names: files that the manifest has.
            threads: the number of threads that hash, by default one a core.

        Raises:
            ArtifactError: files differ; the message names each.
        """
        files = {name: self.files[name] for name in names}
        check_contents(
            {folder / name: file for name, file in files.items()},
            {folder / name for name in self.weights & files.keys()},
            threads=threads,
        )


class _Format(Struct):
    format: Raw = Raw(b"null")


def _cannot_be_read(name: str | Path) -> Callable[[str], ArtifactError]:
    return lambda reason: ArtifactError(f"{name}: cannot be read ({reason}); export again")


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
