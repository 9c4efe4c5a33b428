"""The checks of one precision of an artifact, rung by rung."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import DeviceError
from ..exporter.checkpoint.open import Checkpoint
from ..manifest import Manifest
from ..runtime.device.base import Device
from ..runtime.device.cpu import Cpu
from ..runtime.device.open import open_device, present_devices
from ..runtime.device.session import Session
from ..runtime.text.tokenizer import Tokenizer
from ..runtime.transcriber import Transcriber
from . import thresholds
from .artifact_model import ArtifactModel
from .certificate_html import format_error
from .clips import Clip, Run, decode, embedded_clips, encode, stream
from .layerwise import Layerwise
from .operator_parity import probe_operators
from .stage_parity import StageErrors, probe, relative_error
from .text_metrics import compare_texts, error_rate, margin_histogram, softmax_divergence
from .thresholds import Threshold
from .verdict import FAILED, NOT_JUDGED, NOT_RUN, PASSED, Finding, Status
from .weight_parity import compare_weights

MAX_PASSES = 4  # of the float model over its own tokens, until they no longer change
WEIGHTS = "weights against the checkpoint"


@dataclass(frozen=True, slots=True)
class ClipRuns:
    """The results of transcribing the clips as shipped, kept after the transcriber is closed."""

    runs: tuple[Run, ...]  # by clip
    texts: tuple[str, ...]  # by clip
    pieces: Run  # the first clip again, fed in pieces
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
        """Read the graphs, and open the devices besides the CPU.

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
        self.model = ArtifactModel(folder, manifest, precision)
        self.is_float = not manifest.precisions[precision].recipe.rules
        self.is_exact = (
            self.is_float and manifest.precisions[precision].activation_dtype == "float32"
        )
        self.devices: list[Device] = []  # besides the CPU
        self.absent: list[Finding] = []
        for name in present_devices():
            try:
                self.devices.append(
                    open_device(name, manifest.precisions[precision].activation_dtype)
                )
            except DeviceError as error:
                self.absent.append(self._absent(name, error))

    def run(self, rungs: set[int]) -> Iterator[Finding]:
        """Yield the findings of the requested rungs among 1, 3, 4, 5 and 6."""
        if 1 in rungs:
            yield from self._operators()
        if 3 in rungs:
            yield self._weights()
        if rungs & {3, 4}:
            yield from self._stages(rungs)
        if wanted := rungs & {4, 5, 6}:
            try:
                clip_runs = self._listen(self.clips if rungs & {5, 6} else self.clips[:1])
            except DeviceError as error:  # too little memory
                yield from (
                    self._finding(rung, "clips as shipped", NOT_RUN, str(error))
                    for rung in sorted(wanted)
                )
                return
            if 4 in rungs:
                yield from self._streams(clip_runs)
            yield from self._against_float(clip_runs, rungs & {5, 6})

    def _absent(self, name: str, error: DeviceError) -> Finding:
        return self._finding(3, f"{name} against CPU", NOT_RUN, str(error).partition("\n")[0])

    def _leave_out(self, device: Device, error: DeviceError) -> None:
        """Remove a device that has no kernel for a part of this precision, so it is not judged."""
        self.devices.remove(device)
        self.absent.append(self._absent(device.name, error))

    def _finding(self, rung: int, check: str, status: Status, summary: str) -> Finding:
        return Finding(rung, check, self.precision, status, summary)

    def _judge(
        self, rung: int, check: str, error: float, where: str, threshold: Threshold, name: str = ""
    ) -> Finding:
        """Return the finding on an error, which is called by the threshold's name or another."""
        status, limit = (PASSED, "at most") if error <= threshold.value else (FAILED, "more than")
        measured = f"{name or threshold.name} {format_error(error)}"
        bound = f"{limit} {format_error(threshold.value)}"
        return self._finding(rung, check, status, f"{measured} in {where}, {bound}")

    def _say(self, message: str) -> None:
        self.on_progress(f"{self.precision}: {message}")

    def _operators(self) -> Iterator[Finding]:
        self._say("operators")
        devices: list[Device] = [Cpu(), *self.devices]

        def leave_out(device: Device, error: DeviceError) -> None:
            devices.remove(device)
            self._leave_out(device, error)

        errors = list(probe_operators(self.model, self.manifest, devices, leave_out))
        names = {device.name for device in devices}  # devices that ran every operator
        self.details["operators"] = [asdict(error) for error in errors if error.device in names]
        for device in devices:
            worst = max(
                (row for row in errors if row.device == device.name), key=lambda row: row.error
            )
            limit = (
                thresholds.OPERATOR_ERROR if isinstance(device, Cpu) else thresholds.SHIPPED_ERROR
            )
            check, name = f"operators on {device.name}", thresholds.OPERATOR_ERROR.name
            yield self._judge(1, check, worst.error, worst.name, limit, name)

    def _weights(self) -> Finding:
        check = WEIGHTS
        if self.source is None:
            return self._finding(3, check, NOT_RUN, "no checkpoint was given")
        self._say("weights")
        errors = list(compare_weights(self.model, self.source))
        self.details["weights"] = [str(error) for error in errors]
        generator = self.manifest.generator
        is_ours = generator == f"voxtral-onnx {__version__}"
        wrong = [
            row for row in errors if is_ours or not row.is_rounding(thresholds.ROUNDING_STEPS.value)
        ]
        if wrong:
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            return self._finding(3, check, FAILED, "; ".join(map(str, wrong[:3])) + more)
        count = sum(
            len(graph.graph.initializers) for graph in (self.model.encoder, self.model.decoder)
        )
        how = "as a fresh export makes them: codes bit for bit, floats within rounding"
        if errors:  # of another version, which rounds in a way of its own
            steps = thresholds.ROUNDING_STEPS.value
            how = f"{len(errors)} rounded differently by {generator}, by {steps:g} steps at most"
        return self._finding(3, check, PASSED, f"{count} tensors, {how}")

    def _stages(self, rungs: set[int]) -> Iterator[Finding]:
        # Run every stage
        stages: list[StageErrors] = []
        for errors in probe(self.model, self.manifest, self.devices, self._leave_out):
            stages.append(errors)
            self._say(f"stage {len(stages)}: {errors.name}")
        self.details["stages"] = [asdict(errors) for errors in stages]

        # Judge the worst of them
        def judge(
            rung: int,
            check: str,
            kind: Callable[[StageErrors], float],
            threshold: Threshold,
            name: str = "",
        ) -> Finding:
            worst = max(stages, key=kind)
            return self._judge(rung, check, kind(worst), worst.name, threshold, name)

        if 3 in rungs:
            yield judge(
                3, "graphs against modules", lambda errors: errors.graph, thresholds.GRAPH_ERROR
            )
            yield judge(
                3, "graphs as shipped", lambda errors: errors.shipped, thresholds.SHIPPED_ERROR
            )
            for device in self.devices:
                kind = lambda errors, name=device.name: errors.devices[name]  # noqa: E731
                check = f"{device.name} against CPU"
                yield judge(3, check, kind, thresholds.SHIPPED_ERROR, "relative L2")
            yield from self.absent
        if 4 in rungs:
            yield judge(
                4, "stages call by call", lambda errors: errors.streamed, thresholds.GRAPH_ERROR
            )

    def _listen(self, clips: Sequence[Clip]) -> ClipRuns:
        self._say(f"{len(clips)} clips as shipped")
        with Transcriber(self.folder, "cpu", precision=self.precision) as transcriber:
            tested = embedded_clips(self.manifest.config.audio.sample_rate)[0]
            self.details["self_test"] = _self_test(
                tested, stream(transcriber, tested.samples), transcriber
            )
            runs = tuple(stream(transcriber, clip.samples, logits=True) for clip in clips)
            clip_runs = ClipRuns(
                runs,
                tuple(transcriber.tokenizer.decode(run.token_ids.tolist()) for run in runs),
                stream(transcriber, clips[0].samples, in_pieces=True, logits=True),
                transcriber.encoder.mel,
                transcriber.tokenizer,
            )
        del transcriber
        gc.collect()  # frees the sessions' memory before the modules are loaded
        return clip_runs

    def _streams(self, clip_runs: ClipRuns) -> Iterator[Finding]:
        # Compare both ways of feeding a stream
        run, pieces = clip_runs.runs[0], clip_runs.pieces
        same, check = run.token_ids == pieces.token_ids, "a stream in pieces"
        if same.all():
            yield self._finding(
                4, check, PASSED, f"{len(same)} identical tokens, fed at once or in odd pieces"
            )
        else:
            at = int(same.argmin())  # the first difference, up to which both have equal histories
            gap, noise = _gap_and_noise(run, pieces, at)
            status = PASSED if gap <= thresholds.TIE.value * noise else FAILED
            summary = (
                f"identical up to token {at}, where the logits are {gap:.2g} apart at a noise of "
                f"{noise:.2g}, limit {thresholds.TIE.value:g} times the noise"
            )
            yield self._finding(4, check, status, summary)

        # Compare the stream with the modules over the whole clip
        self._say("a whole clip in float32")
        embeds = encode(self.model, self.manifest, clip_runs.mel, self.clips[:1])
        (whole,) = decode(self.model, self.manifest, embeds, [run.token_ids])
        different = [int(at) for at in np.flatnonzero(run.token_ids != whole.token_ids)]
        compared = ((at, *_gap_and_noise(run, whole, at)) for at in different)
        broken = [at for at, gap, noise in compared if gap > thresholds.TIE.value * noise]
        check, count = "a stream against the whole clip", len(run.token_ids)
        if broken:
            summary = (
                f"token {broken[0]} of {count} differs by more than {thresholds.TIE.value:g} times "
                "the noise of its logits"
            )
            yield self._finding(4, check, FAILED, summary)
        threshold = thresholds.EXACT_STREAM_ERROR if self.is_exact else thresholds.STREAM_ERROR
        where = f"the logits, {count - len(different)} of {count} tokens identical"
        yield self._judge(4, check, relative_error(run.logits, whole.logits), where, threshold)

    def _against_float(self, clip_runs: ClipRuns, rungs: set[int]) -> Iterator[Finding]:
        # Load the float model
        names = {5: "quantised against float", 6: "words"}
        model = None if self.is_exact or not rungs else self._float_model()
        if model is None:
            status, why = (NOT_RUN, "no float model: neither a checkpoint nor the precision fp32")
            if self.is_exact:
                status, why = (NOT_JUDGED, "this precision is the float model")
            yield from (self._finding(rung, names[rung], status, why) for rung in sorted(rungs))
            return

        # Run it after the artifact's tokens, and let it generate tokens of its own
        self._say("the float model")
        embeds = encode(model, self.manifest, clip_runs.mel, self.clips)
        after_ours = decode(model, self.manifest, embeds, [run.token_ids for run in clip_runs.runs])
        written = [run.token_ids for run in after_ours]
        # Fed with its own tokens until it repeats them, it has generated them greedily: a pass over
        # all positions at once is faster than one position a call
        for _ in range(MAX_PASSES):
            before = written
            written = [run.token_ids for run in decode(model, self.manifest, embeds, written)]
            if all(map(np.array_equal, before, written)):
                break

        # Compare texts, and judge
        texts = [clip_runs.tokenizer.decode(ids.tolist()) for ids in written]
        rows = [
            compare_texts(*row)
            for row in zip(self.clips, texts, clip_runs.texts, strict=True)
            if row[0].text
        ]
        self.details["clips"] = rows
        excuse = "no clip has a text" if not rows else None
        if rows and error_rate(rows, "float") >= thresholds.FLOAT_CER.value:
            excuse = "the float model writes no words"
        for rung in sorted(rungs):
            passed, summary = (
                self._quantisation(after_ours, clip_runs.runs) if rung == 5 else _judge_words(rows)
            )
            status = NOT_JUDGED if excuse else PASSED if passed else FAILED
            yield self._finding(
                rung, names[rung], status, f"{excuse} ({summary})" if excuse else summary
            )

    def _quantisation(self, wanted: Sequence[Run], made: Sequence[Run]) -> tuple[bool, str]:
        """Return whether rung 5 passed, and its summary in words.

        Args:
            wanted: the float model's runs, fed with the tokens of `made`.
            made: the artifact's runs.
        """
        # Measure
        divergence, same = [], []
        for a, b in zip(wanted, made, strict=True):
            divergence.append(softmax_divergence(a.logits, b.logits))
            same.append(a.token_ids == b.token_ids)
        kl, agreement = float(np.concatenate(divergence).mean()), float(np.concatenate(same).mean())
        before, after = (np.concatenate([run.margins for run in runs]) for runs in (wanted, made))
        flips = (before > 0) != (after > 0)
        hard = int((flips & (np.abs(before) > thresholds.SURE_MARGIN)).sum())
        self.details["margins"] = margin_histogram(before, after)
        self.details["quantisation"] = {
            "tokens": len(before),
            "kl_mean": kl,
            "kl_max": float(np.concatenate(divergence).max()),
            "margin_drift": float(np.abs(before - after).mean()),
            "flips": int(flips.sum()),
            "sure_flips": hard,
            "agreement": agreement,
        }
        # Judge
        broken = []
        if kl > thresholds.KL_DIVERGENCE.value:
            broken.append(f"KL at most {thresholds.KL_DIVERGENCE.value:g}")
        if hard > thresholds.BLANK_FLIPS.value:
            broken.append(f"at most {thresholds.BLANK_FLIPS.value:g} sure decisions changed")
        if agreement < thresholds.AGREEMENT.value:
            broken.append(f"at least {thresholds.AGREEMENT.value:.0%} of tokens identical")
        limits = f"; limit: {', '.join(broken)}" if broken else ""
        return not broken, (
            f"KL {kl:.2g} nats a token, blank margins {np.abs(before - after).mean():.2g} off on "
            f"average, {int(flips.sum())} blank decisions changed ({hard} of them sure), "
            f"{agreement:.1%} of {len(before)} tokens identical{limits}"
        )

    def _float_model(self) -> Layerwise | None:
        if self.source is not None:
            return Layerwise(self.source)
        if "fp32" in self.manifest.precisions:
            return ArtifactModel(self.folder, self.manifest, "fp32")
        return None


def _judge_words(rows: Sequence[dict[str, Any]]) -> tuple[bool, str]:
    if not rows:
        return False, "nothing to compare"
    before, after = (error_rate(rows, kind) for kind in ("float", "shipped"))
    limit = thresholds.CHARACTERS_LOST.value
    summary = (
        f"characters wrong: float {before:.1%}, as shipped {after:.1%}, limit {limit * 100:g} "
        "points more"
    )
    return after - before <= limit, summary


def _gap_and_noise(run: Run, other: Run, at: int) -> tuple[float, float]:
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
