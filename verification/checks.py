"""The checks of one precision of an artifact that need no PyTorch, rung by rung.

module_checks.py has those that compare with the exporter's modules.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import DeviceError
from ..exporter.checkpoint.open import Checkpoint
from ..exporter.packages import say_missing
from ..manifest import Manifest
from ..runtime.device.session import Session
from ..runtime.text.tokenizer import Tokenizer
from ..runtime.transcriber import Transcriber
from . import thresholds
from .batch_graph import batch_differences
from .clips import Clip, Run, embedded_clips, stream
from .subgraphs import ArtifactGraphs, StagedGraph
from .verdict import FAILED, NOT_RUN, PASSED, Finding, Status
from .weight_parity import compare_weights

WEIGHTS = "weights against the checkpoint"
BATCH = "the encoder for several streams"
# Names of the checks that compare with modules, by rung; module_checks.py adds those of devices
OPERATORS, GRAPHS, SHIPPED = "operators on cpu", "graphs against modules", "graphs as shipped"
STAGES, WHOLE = "stages call by call", "a stream against the whole clip"
QUANTISATION, WORDS = "quantised against float", "words"


@dataclass(frozen=True, slots=True)
class ClipRuns:
    """The results of transcribing the clips as shipped, kept after the transcriber is closed."""

    runs: tuple[Run, ...]  # by clip; none where no rung that runs needs them
    texts: tuple[str, ...]  # by clip
    pieces: Run | None  # the first clip again, fed in pieces; for rung 4
    mel: Session
    tokenizer: Tokenizer


class PrecisionChecks:
    """The checks of one precision of an artifact, and the details that they have measured.

    `details` is the precision's part of the certificate; it grows while `run` is iterated over.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        precision: str,
        source: Checkpoint | None,
        clips: Sequence[Clip],
        on_progress: Callable[[str], None],
    ):
        """Read the graphs, but not yet their weights.

        Args:
            folder: folder of the artifact.
            manifest: its manifest.
            precision: name of the precision to check.
            source: the checkpoint that it was exported from, if there is one.
            clips: recordings for rungs 4 to 6.
            on_progress: called with the name of each check before it begins.

        Raises:
            ArtifactError: the graphs were not made by this exporter.
        """
        self.folder, self.manifest, self.precision = folder, manifest, precision
        self.source, self.clips, self.on_progress = source, clips, on_progress
        self.details: dict[str, Any] = {}
        self.graphs = ArtifactGraphs(folder, manifest, precision)

    def run(self, rungs: set[int]) -> Iterator[Finding]:
        """Yield the findings of the requested rungs among 1, 3, 4, 5 and 6."""
        if 1 in rungs:
            yield from self.check_operators()
        if 3 in rungs:
            yield self._weights()
        if rungs & {3, 4}:
            yield from self.check_stages(rungs)
        if 3 in rungs:
            yield from self._batch_graph()
        if wanted := rungs & {4, 5, 6}:
            try:
                clip_runs = self._listen(rungs)
            except DeviceError as error:  # too little memory
                yield from (
                    self.finding(rung, "clips as shipped", NOT_RUN, str(error))
                    for rung in sorted(wanted)
                )
                return
            if clip_runs.pieces is not None:
                yield self._streams(clip_runs.runs[0], clip_runs.pieces)
                yield from self.check_whole(clip_runs)
            yield from self.check_against_float(clip_runs, rungs & {5, 6})

    def check_operators(self) -> Iterator[Finding]:
        """Yield the findings of rung 1."""
        yield self._unrun(1, OPERATORS)

    def check_stages(self, rungs: set[int]) -> Iterator[Finding]:
        """Yield the findings on each stage's graph, those of rungs 3 and 4 as requested."""
        if 3 in rungs:
            yield self._unrun(3, GRAPHS)
            yield self._unrun(3, SHIPPED)
        if 4 in rungs:
            yield self._unrun(4, STAGES)

    def check_whole(self, clip_runs: ClipRuns) -> Iterator[Finding]:
        """Yield the findings of rung 4 on the first clip against the modules."""
        yield self._unrun(4, WHOLE)

    def check_against_float(self, clip_runs: ClipRuns, rungs: set[int]) -> Iterator[Finding]:
        """Yield the findings of rungs 5 and 6, as requested."""
        names = {5: QUANTISATION, 6: WORDS}
        yield from (self._unrun(rung, names[rung]) for rung in sorted(rungs))

    def compares_words(self) -> bool:
        """Return whether rungs 5 and 6 can run, for which all clips are transcribed."""
        return False

    def _unrun(self, rung: int, check: str) -> Finding:
        lost = ("torch",)
        return Finding(rung, check, self.precision, NOT_RUN, say_missing(lost), lost)

    def finding(self, rung: int, check: str, status: Status, summary: str) -> Finding:
        """Return a finding on this precision."""
        return Finding(rung, check, self.precision, status, summary)

    def say(self, message: str) -> None:
        """Report the check that begins."""
        self.on_progress(f"{self.precision}: {message}")

    def _weights(self) -> Finding:
        check = WEIGHTS
        if self.source is None:
            return self.finding(3, check, NOT_RUN, "no checkpoint was given")
        self.say("weights")
        errors = list(compare_weights(self.graphs, self.source))
        self.details["weights"] = [str(error) for error in errors]
        generator = self.manifest.generator
        is_ours = generator == f"voxtral-onnx {__version__}"
        wrong = [
            row for row in errors if is_ours or not row.is_rounding(thresholds.ROUNDING_STEPS.value)
        ]
        if wrong:
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            return self.finding(3, check, FAILED, "; ".join(map(str, wrong[:3])) + more)
        count = sum(
            len(graph.graph.initializers) for graph in (self.graphs.encoder, self.graphs.decoder)
        )
        how = "as a fresh export makes them: codes bit for bit, floats within rounding"
        if errors:  # of another version, which rounds in a way of its own
            steps = thresholds.ROUNDING_STEPS.value
            how = f"{len(errors)} rounded differently by {generator}, by {steps:g} steps at most"
        return self.finding(3, check, PASSED, f"{count} tensors, {how}")

    def _batch_graph(self) -> Iterator[Finding]:
        """Compare the graph for several streams with the encoder, if there is one."""
        kind = self.manifest.precisions[self.precision]
        for role, graph in kind.several.items():
            self.say(BATCH)
            several = StagedGraph(self.folder, graph, self.manifest.config)
            specs = kind.encoder, graph
            wrong = list(batch_differences(self.folder, self.graphs.encoder, several, specs))
            self.details[role] = wrong
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            yield self.finding(
                3,
                BATCH,
                FAILED if wrong else PASSED,
                "; ".join(wrong[:3]) + more if wrong else "the encoder's weights and layers",
            )

    def _listen(self, rungs: set[int]) -> ClipRuns:
        """Transcribe the self-test's clip, and those that the rungs need and can use."""
        has_streams = 4 in rungs
        clips = self.clips[:1] if has_streams else []
        if rungs & {5, 6} and self.compares_words():
            clips = self.clips
        self.say(f"{len(clips)} clips as shipped" if clips else "the self-test's clip as shipped")
        with Transcriber(self.folder, "cpu", precision=self.precision) as transcriber:
            tested = embedded_clips(self.manifest.config.audio.sample_rate)[0]
            self.details["self_test"] = _self_test(
                tested, stream(transcriber, tested.samples), transcriber
            )
            runs = tuple(stream(transcriber, clip.samples, logits=True) for clip in clips)
            clip_runs = ClipRuns(
                runs,
                tuple(transcriber.tokenizer.decode(run.token_ids.tolist()) for run in runs),
                stream(transcriber, clips[0].samples, in_pieces=True, logits=True)
                if has_streams
                else None,
                transcriber.model.encoder.mel,
                transcriber.tokenizer,
            )
        del transcriber
        gc.collect()  # frees the sessions' memory before the modules are loaded
        return clip_runs

    def _streams(self, run: Run, pieces: Run) -> Finding:
        """Compare both ways of feeding a stream."""
        same, check = run.token_ids == pieces.token_ids, "a stream in pieces"
        if same.all():
            return self.finding(
                4, check, PASSED, f"{len(same)} identical tokens, fed at once or in odd pieces"
            )
        at = int(same.argmin())  # the first difference, up to which both have equal histories
        gap, noise = gap_and_noise(run, pieces, at)
        status = PASSED if gap <= thresholds.TIE.value * noise else FAILED
        summary = (
            f"identical up to token {at}, where the logits are {gap:.2g} apart at a noise of "
            f"{noise:.2g}, limit {thresholds.TIE.value:g} times the noise"
        )
        return self.finding(4, check, status, summary)


def gap_and_noise(run: Run, other: Run, at: int) -> tuple[float, float]:
    """Return how far two runs that generate different tokens at a position are from a tie.

    Args:
        run: a run.
        other: another run, fed with the same tokens before position `at`.
        at: the position where the tokens differ.

    Returns:
        The difference between `other`'s logits of both tokens, and the noise: the root mean square
        of the differences between both runs' logits over the vocabulary.
    """
    ours, theirs = run.logits[at].astype(np.float64), other.logits[at].astype(np.float64)
    gap = theirs.max() - theirs[run.token_ids[at]]
    return float(gap), float(np.sqrt(np.mean((ours - theirs) ** 2)))


def _self_test(clip: Clip, run: Run, transcriber: Transcriber) -> dict[str, Any]:
    """Return the certificate's self-test: a packaged clip and its tokens, as plain values."""
    return {
        "clip": clip.name,
        "device": "cpu",
        "num_delay_tokens": transcriber.num_delay_tokens,
        "token_ids": run.token_ids.tolist(),
        "blank_margins": [round(float(margin), 4) for margin in run.margins],
        "text": transcriber.tokenizer.decode(run.token_ids.tolist()),
    }
