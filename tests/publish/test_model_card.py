"""The model card, as the hub's own library and a reader of Markdown take it."""

from __future__ import annotations

from dataclasses import replace

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.publish.model_card import BaseModel, model_card

NAME = "some-org/speech"
HOSTILE = (
    'x\nbase_model: evil/evil\n---\n# Evil\n\n- [evil](https://evil.example) | "<script>"'
    " ![](https://evil.example/a.png) `a` | b\n```\n\x1b[2J"
)


def test_card_makes_nothing_of_the_words_of_a_manifest(tiny_artifact):
    """Its front matter and its markup are those that plain words get."""
    manifest = Manifest.read(tiny_artifact)
    path, plain = f"onnx/{HOSTILE}", "onnx/plain"

    def told(word: str, path: str) -> str:
        precisions, kind = {}, manifest.precisions["q4"]
        graph = replace(kind.decoder, path=path)
        rule = replace(kind.recipe.rules[0], tensors=word, method=word)
        recipe = replace(kind.recipe, name=word, rules=(rule,))
        families = {"portable": (graph, graph), "transformers_js": (graph,)}
        precisions[word] = replace(
            kind,
            activation_dtype=word,
            recipe=recipe,
            decoder=graph,
            encoder=graph,
            families=families,
        )
        strange = replace(
            manifest,
            generator=word,
            fingerprint=word,
            scope=word,
            license=word,
            precisions=precisions,
            files={**manifest.files, path: manifest.files["tekken.json"]},
        )
        return model_card(strange, NAME, {path: 1}, word, BaseModel("a/b", word, ()))

    cards = [ModelCard(told(word, at)) for word, at in ((HOSTILE, path), ("plain", plain))]
    strange, expected = (card.data.to_dict() for card in cards)
    assert strange.pop("license") == HOSTILE and expected.pop("license") == "plain"
    assert strange == expected and strange["base_model"] == "a/b"
    parsed = [MarkdownIt("js-default", {"html": True}).parse(card.text) for card in cards]
    kinds = [[token.type for token in tokens] for tokens in parsed]
    links = [
        {
            (child.type, *map(str, child.attrs.values()))
            for token in tokens
            for child in token.children or ()
            if child.type != "text_special"  # an escaped character
        }
        for tokens in parsed
    ]
    assert kinds[0] == kinds[1]
    assert links[0] == links[1]
    assert "\x1b" not in cards[0].content
