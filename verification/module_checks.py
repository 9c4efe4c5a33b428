"""The checks of one precision that compare with the exporter's modules in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..errors import DeviceError
from ..runtime.device.base import Device
from ..runtime.device.cpu import Cpu
from ..runtime.device.open import open_device, present_devices
from . import thresholds
from .artifact_model import ArtifactModel
from .certificate_html import format_error
from .checks import (
    GRAPHS,
    QUANTISATION,
    SHIPPED,
    STAGES,
    WHOLE,
    WORDS,
    ClipRuns,
    PrecisionChecks,
    gap_and_noise,
)
from .clips import Run
from .layerwise import Layerwise
from .operator_parity import probe_operators
from .stage_parity import StageErrors, probe, relative_error
from .subgraphs import ArtifactGraphs
from .text_metrics import compare_texts, error_rate, margin_histogram, softmax_divergence
from .thresholds import Threshold
from .verdict import FAILED, NOT_JUDGED, NOT_RUN, PASSED, Finding
from .whole_clips import decode, encode

MAX_PASSES = 4  # of the float model over its own tokens, until they no longer change


class ModuleChecks(PrecisionChecks):
    """All checks of one precision of an artifact."""

    def __init__(self, *args: Any):
        """Prepare the artifact's modules, and open the devices besides the CPU.

        Raises:
            ArtifactError: as `PrecisionChecks`.
        """
        super().__init__(*args)
        kind = self.manifest.precisions[self.precision]
        self.model = self._model(self.graphs)
        self.is_float = not kind.recipe.rules
        self.is_exact = self.is_float and kind.activation_dtype == "float32"
        self.devices: list[Device] = []  # besides the CPU
        self.absent: list[Finding] = []
        for name in present_devices():
            try:
                self.devices.append(open_device(name, kind.activation_dtype))
            except DeviceError as error:
                self.absent.append(self._absent(name, error))

    def _model(self, graphs: ArtifactGraphs) -> ArtifactModel:
        return ArtifactModel(graphs, self.manifest.streaming.default_delay_tokens)

    def _absent(self, name: str, error: DeviceError) -> Finding:
        return self.finding(3, f"{name} against CPU", NOT_RUN, str(error).partition("\n")[0])

    def _leave_out(self, device: Device, error: DeviceError) -> None:
        """Remove a device that has no kernel for a part of this precision, so it is not judged."""
        self.devices.remove(device)
        self.absent.append(self._absent(device.name, error))

    def _judge(
        self, rung: int, check: str, error: float, where: str, threshold: Threshold, name: str = ""
    ) -> Finding:
        """Return the finding on an error, which is called by the threshold's name or another."""
        status, limit = (PASSED, "at most") if error <= threshold.value else (FAILED, "more than")
        measured = f"{name or threshold.name} {format_error(error)}"
        bound = f"{limit} {format_error(threshold.value)}"
        return self.finding(rung, check, status, f"{measured} in {where}, {bound}")

    def check_operators(self) -> Iterator[Finding]:
        """Yield the findings of rung 1, by device."""
        self.say("operators")
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

    def check_stages(self, rungs: set[int]) -> Iterator[Finding]:
        """Yield the findings of rungs 3 and 4 on each stage's graph, as requested."""
        # Run every stage
        stages: list[StageErrors] = []
        for errors in probe(self.model, self.manifest, self.devices, self._leave_out):
            stages.append(errors)
            self.say(f"stage {len(stages)}: {errors.name}")
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
            yield judge(3, GRAPHS, lambda errors: errors.graph, thresholds.GRAPH_ERROR)
            yield judge(3, SHIPPED, lambda errors: errors.shipped, thresholds.SHIPPED_ERROR)
            for device in self.devices:
                kind = lambda errors, name=device.name: errors.devices[name]  # noqa: E731
                check = f"{device.name} against CPU"
                yield judge(3, check, kind, thresholds.SHIPPED_ERROR, "relative L2")
            yield from self.absent
        if 4 in rungs:
            yield judge(4, STAGES, lambda errors: errors.streamed, thresholds.GRAPH_ERROR)

    def check_whole(self, clip_runs: ClipRuns) -> Iterator[Finding]:
        """Compare the stream of the first clip with the modules over the whole of it."""
        run = clip_runs.runs[0]
        self.say("a whole clip in float32")
        embeds = encode(self.model, self.manifest, clip_runs.mel, self.clips[:1])
        (whole,) = decode(self.model, self.manifest, embeds, [run.token_ids])
        different = [int(at) for at in np.flatnonzero(run.token_ids != whole.token_ids)]
        compared = ((at, *gap_and_noise(run, whole, at)) for at in different)
        broken = [at for at, gap, noise in compared if gap > thresholds.TIE.value * noise]
        check, count = WHOLE, len(run.token_ids)
        if broken:
            summary = (
                f"token {broken[0]} of {count} differs by more than {thresholds.TIE.value:g} times "
                "the noise of its logits"
            )
            yield self.finding(4, check, FAILED, summary)
        threshold = thresholds.EXACT_STREAM_ERROR if self.is_exact else thresholds.STREAM_ERROR
        where = f"the logits, {count - len(different)} of {count} tokens identical"
        yield self._judge(4, check, relative_error(run.logits, whole.logits), where, threshold)

    def check_against_float(self, clip_runs: ClipRuns, rungs: set[int]) -> Iterator[Finding]:
        """Yield the findings of rungs 5 and 6, as requested."""
        # Load the float model
        names = {5: QUANTISATION, 6: WORDS}
        model = self._float_model() if rungs and self.compares_words() else None
        if model is None:
            status, why = (NOT_RUN, "no float model: neither a checkpoint nor the precision fp32")
            if self.is_exact:
                status, why = (NOT_JUDGED, "this precision is the float model")
            yield from (self.finding(rung, names[rung], status, why) for rung in sorted(rungs))
            return

        # Run it after the artifact's tokens, and let it generate tokens of its own
        self.say("the float model")
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
            yield self.finding(
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

    def compares_words(self) -> bool:
        """Return whether there is a float model that this precision is not."""
        has_float = self.source is not None or "fp32" in self.manifest.precisions
        return has_float and not self.is_exact

    def _float_model(self) -> Layerwise:
        if self.source is not None:
            return Layerwise(self.source)
        return self._model(ArtifactGraphs(self.folder, self.manifest, "fp32"))


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
