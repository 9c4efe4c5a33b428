"""What quantisation methods and recipes lose on the tiny checkpoint: weights, logits, blank decisions, words.

    apt-get install espeak-ng flite && pip install hibari-tts
    python bench/quant.py

Every row is an artifact that `export` made (q4: activations in float32), run over held-out domain sentences that
bench/wer.py speaks: shipped recipes over many, the others over few, because the encoder costs a second of one core for
seven clips. Logits are compared while each model is told the tokens that float32 chooses; words are those that it
writes by itself. A profile says which parts of the model turn blank decisions over, on the clips where float32 decides
most narrowly. Prints Markdown tables and writes results/quant.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import numpy as np
import typer
import wer
from rich.progress import track

from voxtral_onnx import Transcriber, __version__
from voxtral_onnx.errors import VoxtralOnnxError
from voxtral_onnx.exporter.checkpoint import Checkpoint, open_checkpoint
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.quant.blocks import dequantize_blockwise, quantize_blockwise
from voxtral_onnx.quant.recipe import Rule, load_recipe
from voxtral_onnx.runtime.audio import open_audio
from voxtral_onnx.runtime.bench import markdown_table
from voxtral_onnx.runtime.stream import Stream, Token

RESULTS = wer.ROOT / "bench" / "results" / "quant.json"
TABLE = "language_model.embed_tokens"
FLOAT, SHIPPED = "float32", ("default", "quality", "small", "q8")
FIRM = 1.0  # blank margin above which float32's decision may not flip
NARROW = 5.0  # below which the profile measures how far margins drift
NARROWEST = 36  # clips of the profile, besides those in which `UNIFORM` flips a firm decision
DELAY_MS = 480
SLICE_ROWS, COLUMNS = 170, 3072  # what the exporter quantises at a time


@dataclass(frozen=True, slots=True)
class Case:
    """An artifact to measure: a shipped recipe by its name, or rules."""

    name: str
    rules: tuple[tuple[str, int, int, str], ...] = ()  # tensors, bits, block_size, method

    def recipe(self, folder: Path) -> str:
        """The shipped recipe's name, or the path of a file that holds the rules."""
        if not self.rules:
            return self.name
        lines = ["accuracy_level = 4"]
        for tensors, bits, block_size, method in self.rules:
            lines += ["[[rules]]", f'tensors = "{tensors}"', f"bits = {bits}", f"block_size = {block_size}"]
            lines += [f'method = "{method}"']
        path = folder / f"{self.name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return str(path)


def uniform(method: str, bits: int = 4, block_size: int = 32) -> Case:
    """One method for all layers; the tied table, which cannot have zero points, by its symmetric sister."""
    table = method.replace("_asymmetric", "_symmetric")
    rules = ((TABLE, bits, block_size, table), ("*", bits, block_size, method))
    return Case(f"{method} {bits} bits, blocks of {block_size}", rules)


UNIFORM = uniform("rtn_asymmetric")
REFITTED = Case("layers refitted, 4 bits", ((TABLE, 4, 32, "rtn_symmetric"), ("*", 4, 32, "refit_asymmetric")))
LONG = (FLOAT, "default", UNIFORM.name, REFITTED.name, "quality", "q8")  # over all sentences
CASES = (
    *(Case(name) for name in SHIPPED),
    *(uniform(f"{name}_{symmetry}") for name in ("rtn", "refit") for symmetry in ("symmetric", "asymmetric")),
    *(uniform(f"{name}_asymmetric", block_size=size) for size in (64, 128) for name in ("rtn", "refit")),
    *(uniform(f"{name}_asymmetric", bits=8) for name in ("rtn", "refit")),
    REFITTED,
)


PARTS = {
    "encoder attention": "audio_tower.layers.*.self_attn.*",
    "encoder MLP": "audio_tower.layers.*.mlp.*",
    "adapter": "multi_modal_projector.*",
    "decoder attention": "language_model.layers.*.self_attn.*",
    "decoder MLP": "language_model.layers.*.mlp.*",
    "table": TABLE,
}


def in_bits(bits: int, *parts: str, block_size: int = 32, method: str = "rtn_symmetric") -> tuple:
    """Rules for parts of the model."""
    return tuple((PARTS[part], bits, block_size, method) for part in parts)


ENCODER = ("encoder attention", "encoder MLP")
PROFILE = (  # of which UNIFORM is the first row
    *(Case(f"{part} in 8 bits", (*in_bits(8, part), *UNIFORM.rules)) for part in PARTS),
    *(
        Case(f"{part} alone in 4 bits", in_bits(4, part, method=f"rtn_{'' if part == 'table' else 'a'}symmetric"))
        for part in PARTS
    ),
    Case("encoder and adapter in 8 bits", (*in_bits(8, *ENCODER, "adapter"), *UNIFORM.rules)),
    Case("encoder attention and adapter in 8 bits", (*in_bits(8, "encoder attention", "adapter"), *UNIFORM.rules)),
    Case(
        "adapter in 8 bits, encoder refitted in blocks of 16",
        (
            *in_bits(8, "adapter"),
            *in_bits(4, *ENCODER, block_size=16, method="refit_asymmetric"),
            *UNIFORM.rules,
        ),
    ),
)


@dataclass
class Tally:
    """Sums over positions of one case against float32."""

    divergence: float = 0.0  # of the distribution from float32's, in nats
    drift: float = 0.0  # of the blank margin, squared
    flips: int = 0  # blank decisions
    firm_flips: int = 0  # those that float32 makes with a margin above FIRM
    largest_flip: float = 0.0  # float32's largest margin among flipped decisions
    agreed: int = 0  # tokens
    positions: int = 0

    def add(self, other: Tally) -> None:
        """Take in another clip's sums."""
        for name in ("divergence", "drift", "flips", "firm_flips", "agreed", "positions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest_flip = max(self.largest_flip, other.largest_flip)

    def row(self) -> dict[str, Any]:
        """Means over positions, and counts."""
        return {
            "positions": self.positions,
            "logit_kl": float(f"{self.divergence / self.positions:.3g}"),
            "margin_drift": round((self.drift / self.positions) ** 0.5, 4),
            "flips": self.flips,
            "firm_flips": self.firm_flips,
            "largest_flip": round(self.largest_flip, 3),
            "token_agreement": round(100 * self.agreed / self.positions, 3),
        }


class Replay(Stream):
    """A stream that is encoded once and decoded twice: told its tokens, and by itself."""

    def __init__(self, transcriber: Transcriber, samples: np.ndarray):
        super().__init__(transcriber, transcriber.num_delay_tokens, stop_at_eos=True)
        self.audio_embeds: list[np.ndarray] = []
        self.feed(samples)
        self.finish()

    def decode(self, audio_embeds: np.ndarray) -> Iterator[Token]:
        """Keep them."""
        self.audio_embeds.append(audio_embeds)
        self.decoder_cache.position += len(audio_embeds)
        return iter(())

    def write(self) -> list[int]:
        """Tokens that the model chooses by itself, to the end of the text."""
        self.decoder_cache, self.finished = self.transcriber.decoder.new_cache(), False
        return [token.token_id for token in super().decode(np.concatenate(self.audio_embeds))]

    def tell(self, token_ids: list[int]) -> np.ndarray:
        """float64 [tokens, vocab_size]: logits of each generated position, given the tokens before it."""
        audio_embeds, cache, logits = np.concatenate(self.audio_embeds), self.transcriber.decoder.new_cache(), []
        ids = [self.ids.bos] + [self.ids.streaming_pad] * (self.prompt_length - 1) + token_ids[:-1]
        while (at := cache.position) < len(ids):
            rows = min(len(ids) - at, cache.room)
            feeds = {
                "input_ids": np.array([ids[at : at + rows]], np.int64),
                "audio_embeds": audio_embeds[None, at : at + rows],
                "num_delay_tokens": np.array([self.num_delay_tokens], np.int64),
                "blank_penalty": np.zeros((1, rows), np.float32),
                **cache.positions(rows),
            }
            logits.append(self.transcriber.decoder.session.step(cache, feeds, "logits")[0])
        return np.concatenate(logits)[self.prompt_length - 1 :].astype(np.float64)


def compare(logits: np.ndarray, expected: np.ndarray, blank: int, token_ids: np.ndarray) -> Tally:
    """Tally of one clip."""
    log_p, log_q = (values - logsumexp(values) for values in (expected, logits))
    margins, margins_float = (blank_margin(values, blank) for values in (logits, expected))
    flipped = (margins > 0) != (margins_float > 0)
    certainty = np.abs(margins_float[flipped])
    return Tally(
        divergence=float((np.exp(log_p) * (log_p - log_q)).sum()),
        drift=float(((margins - margins_float) ** 2).sum()),
        flips=int(flipped.sum()),
        firm_flips=int((certainty > FIRM).sum()),
        largest_flip=float(certainty.max(initial=0)),
        agreed=int((logits.argmax(1) == token_ids).sum()),
        positions=len(logits),
    )


def logsumexp(logits: np.ndarray) -> np.ndarray:
    """Log sum exp over the vocabulary, [tokens, 1]."""
    highest = logits.max(1, keepdims=True)
    return highest + np.log(np.exp(logits - highest).sum(1, keepdims=True))


def blank_margin(logits: np.ndarray, blank: int) -> np.ndarray:
    """Logit of the blank less the best other one, [tokens]."""
    return logits[:, blank] - np.delete(logits, blank, 1).max(1)


@cache
def load_transcriber(folder: Path) -> Transcriber:
    """A transcriber of one thread, loaded once a process."""
    (precision,) = Manifest.read(folder).precisions
    return Transcriber(folder, "cpu", precision=precision, threads=1, delay_ms=DELAY_MS)


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip through one artifact."""

    text: str
    tally: Tally
    margins: np.ndarray  # of the blank at each position, [tokens]


def measure_clip(folders: list[Path], clip: wer.Clip) -> dict[str, Heard]:
    """A clip through each artifact, by its name; the first is float32's."""
    reference = load_transcriber(folders[0])
    samples = np.concatenate(list(open_audio(clip.path, reference.sample_rate).blocks()))
    replay = Replay(reference, samples)
    token_ids, blank = replay.write(), replay.ids.streaming_pad
    expected = replay.tell(token_ids)
    found = {}
    for folder in folders:
        replay = Replay(load_transcriber(folder), samples)
        logits = replay.tell(token_ids)
        tally = compare(logits, expected, blank, np.array(token_ids))
        # Where every choice is the one that it was told, it writes the same by itself.
        written = token_ids if tally.agreed == tally.positions else replay.write()
        found[folder.name] = Heard(reference.tokenizer.decode(written), tally, blank_margin(logits, blank))
    return found


def is_firm_flip(margins: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Which decisions float32 makes with a margin above FIRM and another model the other way."""
    return ((margins > 0) != (expected > 0)) & (np.abs(expected) > FIRM)


def choose_narrow(found: list[dict[str, Heard]]) -> list[int]:
    """The clips of the profile: those with the narrowest firm decision, and those in which UNIFORM flips one."""

    def narrowest(heard: dict[str, Heard]) -> float:
        certainty = np.abs(heard[FLOAT].margins)
        return float(certainty[certainty > FIRM].min(initial=np.inf))

    order = sorted(range(len(found)), key=lambda i: narrowest(found[i]))
    flipped = (i for i, heard in enumerate(found) if heard[UNIFORM.name].tally.firm_flips)
    return sorted({*order[:NARROWEST], *flipped})


def profile_row(name: str, heard: list[dict[str, Heard]]) -> dict[str, Any]:
    """What a case does to the blank decisions of some clips."""
    margins, expected = (np.concatenate([row[key].margins for row in heard]) for key in (name, FLOAT))
    narrow = np.abs(expected) < NARROW
    return {
        "name": name,
        "narrow_drift": round(float(np.sqrt(np.mean((margins - expected)[narrow] ** 2))), 3),
        "flips": int(((margins > 0) != (expected > 0)).sum()),
        "firm_flips": int(is_firm_flip(margins, expected).sum()),
    }


def list_firm_flips(clips: list[wer.Clip], found: list[dict[str, Heard]]) -> Iterator[dict[str, Any]]:
    """Every firm decision that UNIFORM flips: where, its margins, and whose words differ from float32's."""
    for clip, heard in zip(clips, found, strict=True):
        for at in np.flatnonzero(is_firm_flip(heard[UNIFORM.name].margins, heard[FLOAT].margins)):
            yield {
                "sentence": clip.text,
                "voice": f"{clip.synthesizer} {clip.voice}",
                "token": int(at),
                "margins": {name: round(float(heard[name].margins[at]), 3) for name in LONG},
                "written": {name: heard[name].text for name in LONG if heard[name].text != heard[FLOAT].text},
            }


def relative_error(weight: np.ndarray, rule: Rule) -> float:
    """Root mean square of the rounding errors over that of the weights."""
    back = dequantize_blockwise(quantize_blockwise(weight, rule), rule, weight.shape[1])
    return float(np.linalg.norm(back - weight) / np.linalg.norm(weight))


def weight_errors(recipe: str, checkpoint: Checkpoint) -> dict[str, float]:
    """Relative errors: of tiny, the root mean square over tensors; of random weights, by the rule for the layers."""
    recipe_ = load_recipe(recipe)
    tensors = {name.removesuffix(".weight"): tensor for name, tensor in checkpoint.tensors.items()}
    rules = {name: recipe_.rule_for(name) for name, tensor in tensors.items() if is_linear(name, tensor.shape)}
    errors = [relative_error(tensors[name].rows(), rule) if rule else 0.0 for name, rule in rules.items()]
    found = {"error_tiny": float(np.sqrt(np.mean(np.square(errors))))}
    layers = {rule for name, rule in rules.items() if name != TABLE}
    if len(layers) == 1:
        (rule,) = layers
        if rule is not None:
            found |= {f"error_{name}": relative_error(weight, rule) for name, weight in random_weights().items()}
            found["seconds_per_gb"] = seconds_per_gb(rule)
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a recipe's rules apply to the tensor of that name."""
    return len(shape) == 2 and ".ada_rms_norm." not in name


@cache
def random_weights() -> dict[str, np.ndarray]:
    """Weights of two distributions, [SLICE_ROWS, COLUMNS]."""
    rng = np.random.default_rng(wer.SEED)
    size = (SLICE_ROWS, COLUMNS)
    return {
        "gaussian": rng.standard_normal(size, np.float32),
        "student_t3": rng.standard_t(3, size).astype(np.float32),
    }


def seconds_per_gb(rule: Rule) -> float:
    """Seconds of one core for a gigabyte of bfloat16 weights, the best of several tries."""
    weight, seconds = random_weights()["gaussian"], []
    for _ in range(7):
        began = process_time()
        quantize_blockwise(weight, rule)
        seconds.append(process_time() - began)
    return min(seconds) / (2 * weight.size) * 1e9


def words_row(clips: list[wer.Clip], texts: list[list[str]]) -> dict[str, Any]:
    """Word error rate of one case and its difference to float32's, from the texts of both in each clip."""
    errors, words = wer.count_errors(clips, texts)
    reference, rate = 100 * errors.sum(0) / words.sum()
    resampled = wer.resample_rates(errors, words)
    return {
        "clips": len(clips),
        "words": int(words.sum()),
        "wer": round(float(rate), 3),
        "wer_interval": wer.interval(resampled[:, 1]),
        "difference": round(float(rate - reference), 3),
        "difference_interval": wer.interval(resampled[:, 1] - resampled[:, 0]),
    }


def render_table(rows: list[dict[str, Any]]) -> str:
    """All rows as a Markdown table."""
    columns = {
        "weight error": lambda row: " / ".join(f"{row[key]:.4f}" for key in row if key.startswith("error_")),
        "s per GB": lambda row: f"{row['seconds_per_gb']:.1f}" if "seconds_per_gb" in row else "",
        "MB": lambda row: f"{row['bytes'] / 1e6:.1f}",
        "KL": lambda row: f"{row['logit_kl']:.2g}",
        "margin drift": lambda row: f"{row['margin_drift']:.3f}",
        "flips": lambda row: f"{row['flips']} ({row['firm_flips']} firm)",
        "tokens": lambda row: f"{row['token_agreement']:.2f} %",
        "WER": lambda row: f"{row['wer']:.2f} ({' to '.join(f'{x:.2f}' for x in row['wer_interval'])})",
        "to float32": lambda row: (
            f"{row['difference']:+.2f} ({' to '.join(f'{x:+.2f}' for x in row['difference_interval'])})"
        ),
    }
    lines = [f"| | {' | '.join(columns)} |", "| --- " * (1 + len(columns)) + "|"]
    lines += [f"| {row['name']} | {' | '.join(cell(row) for cell in columns.values())} |" for row in rows]
    return "\n".join(lines)


def measure(
    sentences: Annotated[int, typer.Option(min=1, help="That shipped recipes are measured on, by 3 voices.")] = 287,
    few: Annotated[int, typer.Option(min=1, help="That all others are measured on.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = os.cpu_count() or 1,
    cache_folder: Annotated[Path, typer.Option("--cache", help="Folder of the WAVs and the artifacts.")] = wer.ROOT
    / "build"
    / "quant",
    output: Annotated[Path, typer.Option(help="File of the results.")] = RESULTS,
) -> None:
    """Measure every method and recipe on the tiny checkpoint."""
    versions = wer.find_synthesizers()
    from calibrated import write_artifacts  # here, as the workers import this file and need no torch

    from voxtral_onnx import export
    from voxtral_onnx.exporter.plan import TINY

    cache_folder.mkdir(parents=True, exist_ok=True)
    domain = [sentence for sentence in wer.read_sentences(sentences) if sentence[0] == "domain"]
    clips = wer.plan_clips(domain, cache_folder / "wav", versions)
    checkpoint, recipes = open_checkpoint(TINY), {case.name: case.recipe(cache_folder) for case in CASES}
    folders = [export("tiny", cache_folder / FLOAT, precisions=("fp32",))]
    for name, recipe in track(recipes.items(), "exporting", console=wer.stderr):
        folders.append(export("tiny", cache_folder / name, precisions=("q4",), recipe=recipe))
    calibrated = write_artifacts(checkpoint, cache_folder / uniform("refit_asymmetric").name)
    folders += calibrated
    long = [folder for folder in folders if folder.name in LONG]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:  # torch's threads do not survive a fork

        def run(what: str, function, *arguments) -> list:
            results = pool.map(function, *arguments, chunksize=4)
            return list(track(results, what, len(clips), console=wer.stderr))

        run("speaking", wer.speak, clips)
        voices = len(wer.VOICES)
        run_folders = [folders if i < few * voices else long for i in range(len(clips))]
        found = run("transcribing", measure_clip, run_folders, clips)
        narrow = choose_narrow(found)
        parts = [
            export("tiny", cache_folder / "profile" / name, precisions=("q4",), recipe=recipe)
            for name, recipe in ((case.name, case.recipe(cache_folder)) for case in PROFILE)
        ]
        heard = list(pool.map(measure_clip, [[folders[0], *parts]] * len(narrow), [clips[i] for i in narrow]))
    heard = [found[i] | row for i, row in zip(narrow, heard, strict=True)]
    profile = [profile_row(case.name, heard) for case in (UNIFORM, *PROFILE, REFITTED, Case("default"))]

    rows = []
    for folder in folders:
        name, tally = folder.name, Tally()
        measured = [i for i, cases in enumerate(found) if name in cases]
        for i in measured:
            tally.add(found[i][name].tally)
        row = {"name": name} | (weight_errors(recipes[name], checkpoint) if name in recipes else {})
        row |= calibrated.get(folder, {})
        row["bytes"] = sum(path.stat().st_size for path in (folder / "onnx").iterdir())
        texts = [[found[i][FLOAT].text, found[i][name].text] for i in measured]
        rows.append(row | tally.row() | words_row([clips[i] for i in measured], texts))
    print(render_table(rows))
    headings = ("", "margin drift", "flips", "firm")
    print(markdown_table(headings, [tuple(map(str, row.values())) for row in profile]))
    results = {
        "measured": f"q4 artifacts of the tiny checkpoint against float32, delay {DELAY_MS} ms; intervals hold 95 %",
        "voxtral_onnx": __version__,
        "machine": wer.describe_machine(),
        "checkpoint": Manifest.read(folders[0]).fingerprint,
        "clips_sha256": wer.hash_clips(clips),
        "firm": FIRM,
        "bootstrap": {"unit": "clip", "resamples": wer.RESAMPLES, "seed": wer.SEED},
        "results": rows,
        "profile": {"clips": len(narrow), "narrow": NARROW, "results": profile},
        "firm_flips": list(list_firm_flips(clips, found)),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    wer.stderr.print(f"written: {output}")


def main() -> None:
    """Run the command line: errors a user can act on are one line on stderr and an exit code."""
    try:
        typer.run(measure)
    except VoxtralOnnxError as error:
        wer.stderr.print(f"error: {error}", markup=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
