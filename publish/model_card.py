"""The model card (README.md) of a published artifact, generated from its manifest.

Text of the manifest is escaped, so that it cannot add keys to the front matter, or markup.
Reference for the keys of the front matter: huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from huggingface_hub import ModelCardData

from ..config import RELEASED, RELEASED_LANGUAGES, RELEASED_NAME
from ..escaping import code, markdown
from ..manifest import FILE_NAME, Manifest

TRANSFORMERS_JS = "config.json"  # present in artifacts with graphs for transformers.js


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The source of an artifact's weights, as the hub's card metadata describes it."""

    repo_id: str  # ORG/NAME
    revision: str | None
    languages: tuple[str, ...]  # language codes, as its own card states them

    @classmethod
    def of(cls, manifest: Manifest, named: str | None) -> BaseModel | None:
        """Return the named repository, else the released model if the manifest has its shape.

        Args:
            manifest: manifest of the artifact.
            named: ORG/NAME or ORG/NAME@REVISION; None if the user has named none.
        """
        is_released_shape = manifest.config == RELEASED and manifest.scope is None
        languages = RELEASED_LANGUAGES if is_released_shape else ()
        if named is None:
            return cls(RELEASED_NAME, None, languages) if is_released_shape else None
        repo_id, _, revision = named.partition("@")
        return cls(repo_id, revision or None, languages)


def model_card(
    manifest: Manifest,
    repo_id: str,
    sizes: Mapping[str, int],
    verdict: str,
    base: BaseModel | None = None,
) -> str:
    """Return the text of README.md.

    Args:
        manifest: manifest of the artifact.
        repo_id: ORG/NAME of the repository that will have the card.
        sizes: bytes of every file beside the card, by path.
        verdict: what the artifact's certificate says, in one line.
        base: the source of the weights, if that is known.
    """
    # The model, its precisions and how to run it
    lines = ["---", _front_matter(manifest, base), "---", ""]
    lines += [f"# {repo_id.partition('/')[2]}", "", *_introduction(manifest, base), ""]
    lines += ["## Precisions", "", *_precisions(manifest), ""]
    lines += [f"Certificate: {markdown(verdict)}.", ""]
    lines += ["## Use", "", *_hosts(manifest, repo_id), ""]

    # Its files and their licence
    lines += ["## Files", "", "| file | bytes |", "| --- | ---: |"]
    lines += [f"| {code(name)} | {size:,} |" for name, size in sorted(sizes.items())]
    lines += [f"| all | {sum(sizes.values()):,} |", ""]
    lines += [f"`{FILE_NAME}` holds sizes and hashes of all that is needed to run.", ""]
    lines += ["## Licence", "", _licence(manifest, base), ""]
    return "\n".join(lines)


def _front_matter(manifest: Manifest, base: BaseModel | None) -> str:
    library = "transformers.js" if TRANSFORMERS_JS in manifest.files else "voxtral-onnx"
    card = ModelCardData(
        license=manifest.license or None,
        base_model=base.repo_id if base else None,
        base_model_relation="quantized" if base else None,
        language=list(base.languages) if base and base.languages else None,
        pipeline_tag="automatic-speech-recognition",
        library_name=library,
        tags=[*dict.fromkeys(("onnx", "onnxruntime", "voxtral-onnx", library, "streaming"))],
    )
    return card.to_yaml()


def _introduction(manifest: Manifest, base: BaseModel | None) -> Iterable[str]:
    origin = (
        f"[{base.repo_id}](https://huggingface.co/{base.repo_id})"
        if base
        else "A Voxtral Realtime model"
    )
    revision = f" at revision {code(base.revision)}" if base and base.revision else ""
    yield (
        f"{origin}{revision} as ONNX: streaming speech to text on onnxruntime, in Python, Node.js "
        "and a browser tab."
    )
    if manifest.scope:
        yield f"\n{markdown(manifest.scope[0].upper() + manifest.scope[1:])}."
    yield (
        f"\nMade by {markdown(manifest.generator)} from weights with the fingerprint "
        f"{code(manifest.fingerprint)}."
    )


def _precisions(manifest: Manifest) -> Iterable[str]:
    """Yield lines: a table of each precision's sizes, then one of each recipe's rules."""
    # Sizes
    yield (
        "| precision | activations | recipe | encoder, bytes | decoder, bytes | to download, bytes "
        "|"
    )
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    recipes = {}
    for name, precision in manifest.precisions.items():
        recipe = precision.recipe
        encoder, decoder = (
            sum(manifest.files[file].size for file in graph.data)
            for graph in (precision.encoder, precision.decoder)
        )
        whole = sum(file.size for file in manifest.files_of([name]).values())
        yield (
            f"| {_cells(name, precision.activation_dtype, recipe.name)} | {encoder:,} | "
            f"{decoder:,} | {whole:,} |"
        )
        if recipe.rules:
            recipes[recipe.name] = recipe

    # Rules of recipes
    for name, recipe in recipes.items():
        yield (
            f"\nRecipe {code(name)}, `accuracy_level` {_cells(recipe.accuracy_level)}; the "
            "first pattern to match counts:\n"
        )
        yield "| weights | bits | block | method |"
        yield "| --- | ---: | ---: | --- |"
        for rule in recipe.rules:
            how = _cells(rule.bits, rule.block_size, rule.method)
            yield f"| {code(rule.tensors)} | {how} |"


def _cells(*values: str | int) -> str:
    return " | ".join(markdown(str(value)) for value in values)


def _hosts(manifest: Manifest, repo_id: str) -> Iterable[str]:
    """Yield paragraphs of Markdown with the commands that run the artifact on each host."""
    # Hosts of the native graphs, in the first precision
    precision = next(iter(manifest.precisions))
    graphs = manifest.precisions[precision]
    first, second = code(graphs.encoder.path), code(graphs.decoder.path)
    decoder = f"{repo_id.partition('/')[2]}/{graphs.decoder.path}"
    yield f"""\
**Python and the command line**

```
pip install 'voxtral-onnx[cpu]'
voxtral-onnx transcribe --model {repo_id} talk.wav
voxtral-onnx listen --model {repo_id}
```

```python
from voxtral_onnx import Transcriber

with Transcriber("{repo_id}") as transcriber:
    print(transcriber.transcribe("talk.wav").text)
```

**A browser tab**: `pip install 'voxtral-onnx[cpu,serve]'`, then `voxtral-onnx serve {repo_id}`; or
as a static site: `voxtral-onnx bundle {repo_id} -o site`.

**Any program on onnxruntime** (C, C++, Java, Node.js …): `onnx/mel.onnx`, {first}
and {second} with the rules in `{FILE_NAME}`, which voxtral-onnx's `docs/artifact.md`
explains; its `examples/node` and `examples/cpp` are such programs, one file each.

**OpenVINO** reads the same graphs, one stream at a time, from a folder without links:

```
hf download {repo_id} --local-dir {repo_id.partition("/")[2]}
```

```python
openvino.Core().compile_model({decoder!r}, "CPU")
```

Graphs in float16 take an extension for QuickGelu first, five lines in voxtral-onnx's
`examples/openvino_host.py`."""

    # Hosts of other families of graphs
    families: dict[str, str] = {}  # the first precision that has each family
    for name, kind in manifest.precisions.items():
        for family in kind.families:
            families.setdefault(family, name)
    if precision := families.get("portable"):
        first, second = (code(graph.path) for graph in manifest.family(precision, "portable"))
        yield f"""
**Hosts without onnxruntime's own operators**: {first} and {second} have the same
inputs and outputs in operators of ONNX opset 23 alone."""
    if precision := families.get("transformers_js"):
        yield f"""
**transformers.js** 4.3 or newer, in Node.js and on WebGPU: `npm install @huggingface/transformers`

```js
import {{
  VoxtralRealtimeForConditionalGeneration, VoxtralRealtimeProcessor
}} from '@huggingface/transformers'

const processor = await VoxtralRealtimeProcessor.from_pretrained('{repo_id}')
const model = await VoxtralRealtimeForConditionalGeneration.from_pretrained(
  '{repo_id}', {{ dtype: {precision!r} }}
)
```

How sound is fed while it is spoken stands in voxtral-onnx's `examples/transformers_js.mjs`."""


def _licence(manifest: Manifest, base: BaseModel | None) -> str:
    origin = (
        f"[{base.repo_id}](https://huggingface.co/{base.repo_id})"
        if base
        else "the checkpoint they come from"
    )
    return (
        "The weights come under the licence of "
        f"{origin}{f': {markdown(manifest.license)}' if manifest.license else ''}."
    )
