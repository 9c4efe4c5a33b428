"""Experimental, the decoder in onnxruntime-genai 0.18: python examples/genai_decoder.py ARTIFACT AUDIO.wav.

genai has no model that adds sound to tokens, but it feeds a graph's further inputs from arrays that may change between
steps. It holds the caches and never moves their rows, so audio ends where the decoder's buffer is full. The encoder is
our runtime's. `genai_config.json` is written beside the manifest: genai reads graphs below its own folder only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime_genai
import soundfile

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import Manifest, write_whole
from voxtral_onnx.runtime.tokenizer import Tokenizer

NEEDED = (0, 18)  # of onnxruntime-genai


def write_config(folder: Path, manifest: Manifest, precision: str) -> None:
    """Describe the artifact's decoder to genai."""
    stack, ids, capacity = manifest.config.decoder, manifest.tokens, manifest.caches["decoder"].capacity
    decoder = {
        "filename": manifest.precisions[precision].decoder.path,
        "session_options": {"provider_options": []},
        "hidden_size": stack.hidden_size,
        "head_size": stack.head_dim,
        "num_attention_heads": stack.num_attention_heads,
        "num_key_value_heads": stack.num_key_value_heads,
        "num_hidden_layers": stack.num_hidden_layers,
        "inputs": {
            "input_ids": "input_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "vocab_size": stack.vocab_size,
        "context_length": capacity,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.streaming_pad,
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": capacity, "past_present_share_buffer": True}
    write_whole(folder / "genai_config.json", json.dumps({"model": model, "search": search}, indent=1).encode())


def tokens(folder: Path, precision: str, samples: np.ndarray) -> Iterator[int]:
    """The token of every 80 ms of samples at the model's rate, until the decoder's buffer is full."""
    if tuple(map(int, onnxruntime_genai.__version__.split(".")[:2])) < NEEDED:
        least = ".".join(map(str, NEEDED))
        sys.exit(
            f"onnxruntime-genai {onnxruntime_genai.__version__}: needed is {least} or newer; run: "
            "pip install -U onnxruntime-genai"
        )
    with Transcriber(folder, precision=precision, device="cpu") as transcriber:
        manifest, decoder = transcriber.manifest, transcriber.decoder
        rules, ids, delay = manifest.streaming, manifest.tokens, transcriber.num_delay_tokens
        embeds = audio_embeds(transcriber, samples)
        places = decoder.new_cache()  # for the rotation and the row of each position; genai holds the caches themselves
    write_config(folder, manifest, precision)
    model = onnxruntime_genai.Model(str(folder))
    generator = onnxruntime_genai.Generator(model, onnxruntime_genai.GeneratorParams(model))
    fed: dict[str, np.ndarray] = {}  # genai reads these arrays anew in every step
    prompt = [ids.bos] + [ids.streaming_pad] * (rules.left_pad_tokens + delay)
    for position, row in enumerate(embeds[: places.spec.capacity - 1]):
        feeds = {
            "audio_embeds": row[None, None],
            "num_delay_tokens": np.array([delay], np.int64),
            "blank_penalty": np.zeros((1, 1), np.float32),
            **places.positions(1),
        }
        for name, values in feeds.items():
            if name in fed:
                fed[name][...] = values
            else:
                fed[name] = np.array(values)
                generator.set_model_input(name, fed[name])
        if position < len(prompt):
            generator.append_tokens([prompt[position]])
        if position >= len(prompt) - 1:
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])
        places.position += 1


def audio_embeds(transcriber: Transcriber, samples: np.ndarray) -> np.ndarray:
    """What the encoder makes of samples and of the silence around them: [positions, hidden_size]."""
    rules, audio, encoder = transcriber.manifest.streaming, transcriber.manifest.config.audio, transcriber.encoder
    per_token, margin = audio.samples_per_token, rules.look_back_samples + rules.look_ahead_samples
    right = -len(samples) % per_token + (transcriber.num_delay_tokens + rules.right_pad_tokens) * per_token
    left = rules.look_back_samples + rules.left_pad_tokens * per_token
    samples = np.pad(samples, (left, right + rules.look_ahead_samples))
    end = (len(samples) - margin) // per_token - 1  # the last position's token would stand behind the audio
    cache, found, at = encoder.new_cache(), [], 0
    while at < end:
        count = min(end - at, rules.max_chunk_tokens, encoder.max_tokens(cache))
        found.append(encoder.encode(cache, samples[at * per_token : (at + count) * per_token + margin]))
        at += count
    return np.concatenate(found)


if __name__ == "__main__":
    artifact, manifest = Path(sys.argv[1]), Manifest.read(Path(sys.argv[1]))
    sound, _ = soundfile.read(sys.argv[2], dtype="float32")
    written = list(tokens(artifact, next(iter(manifest.precisions)), sound))
    print(Tokenizer(artifact / "tekken.json", manifest.tokens).decode(written))
