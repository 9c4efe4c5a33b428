"""Compare decoder speed with llama.cpp's, on a Q4_0 model of the same shape.

    pip install xllamacpp gguf
    python bench/llama_cpp.py ARTIFACT [--precision q4f16,q4]

The artifact is an export of twin.py's checkpoint. Each engine is loaded in a process of its own
with the same number of threads, and waits while the other runs. In each round both generate CALLS
tokens after a prompt of the same length: for one stream, and for several at a time. llama.cpp
repacks weights for the processor, samples greedily and keeps its prompt. Processor time is recorded
too: other work on the machine changes it less, but with more than one thread llama.cpp's includes
waiting. Writes results/llama_cpp.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Annotated

import gguf
import harness
import numpy as np
import typer

from voxtral_onnx.manifest import Manifest
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.device.cache import decoder_cache_spec
from voxtral_onnx.runtime.device.session import Session

STREAMS = (1, 4)  # numbers of streams that generate at a time
PROMPT = 39  # positions, as many as with a delay of 480 ms
CALLS = 4  # timed in a round, each of one token for every stream
CONTEXT = 256
# Milliseconds of a call of one token for each stream: elapsed, and of the processor
Times = tuple[float, float]
Engine = Callable[[int], Times]  # by the number of streams


def write_gguf(manifest: Manifest, path: Path) -> None:
    """Write a GGUF with random Q4_0 weights of the decoder's shape, named as llama's."""
    # Shape
    stack, rng = manifest.config.decoder, np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(stack.sliding_window)
    writer.add_embedding_length(stack.hidden_size)
    writer.add_block_count(stack.num_hidden_layers)
    writer.add_feed_forward_length(stack.intermediate_size)
    writer.add_head_count(stack.num_attention_heads)
    writer.add_head_count_kv(stack.num_key_value_heads)
    writer.add_layer_norm_rms_eps(stack.rms_norm_eps)
    writer.add_rope_freq_base(stack.rope_theta)
    writer.add_rope_dimension_count(stack.head_dim)
    writer.add_key_length(stack.head_dim)
    writer.add_value_length(stack.head_dim)
    writer.add_vocab_size(stack.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)

    # A vocabulary of that size
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [b"<unk>", b"<s>", b"</s>"] + [b"t%d" % i for i in range(3, stack.vocab_size)]
    )
    writer.add_token_scores([0.0] * stack.vocab_size)
    writer.add_token_types([2, 3, 3] + [1] * (stack.vocab_size - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def add(name: str, outputs: int, inputs: int) -> None:
        blocks = rng.integers(0, 256, (outputs, inputs // 32, 18), dtype=np.uint8)
        # Scales that keep activations in range
        blocks[..., :2] = np.array([0.15 * inputs**-0.5], np.float16).view(np.uint8)
        writer.add_tensor(
            name, blocks.reshape(outputs, -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0
        )

    # Weights
    ones = np.ones(stack.hidden_size, np.float32)
    queries = stack.num_attention_heads * stack.head_dim
    keys = stack.num_key_value_heads * stack.head_dim
    add("token_embd.weight", stack.vocab_size, stack.hidden_size)
    writer.add_tensor("output_norm.weight", ones)
    for i in range(stack.num_hidden_layers):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
        add(f"blk.{i}.attn_q.weight", queries, stack.hidden_size)
        add(f"blk.{i}.attn_k.weight", keys, stack.hidden_size)
        add(f"blk.{i}.attn_v.weight", keys, stack.hidden_size)
        add(f"blk.{i}.attn_output.weight", stack.hidden_size, queries)
        add(f"blk.{i}.ffn_gate.weight", stack.intermediate_size, stack.hidden_size)
        add(f"blk.{i}.ffn_up.weight", stack.intermediate_size, stack.hidden_size)
        add(f"blk.{i}.ffn_down.weight", stack.hidden_size, stack.intermediate_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(folder: Path, precision: str, threads: int) -> Engine:
    """Load this package's decoder and return a function that times it."""
    manifest = Manifest.read(folder)
    spec = decoder_cache_spec(manifest, CONTEXT)
    decoder = Decoder(Session(folder, manifest.precisions[precision].decoder, "cpu", threads), spec)
    batch = decoder.new_batch(spec, max(STREAMS))
    embeds = np.zeros((max(STREAMS), manifest.config.decoder.hidden_size), batch.dtype)
    blank, delay = manifest.tokens.streaming_pad, manifest.streaming.default_delay_tokens

    def call(streams: int) -> Times:
        feeds = {
            "input_ids": np.full(streams, blank),
            "audio_embeds": embeds[:streams],
            "num_delay_tokens": np.full(streams, delay),
            "blank_penalty": np.zeros(streams, np.float32),
        }
        began, busy = perf_counter(), process_time()
        for position in range(PROMPT, PROMPT + CALLS):
            decoder.step_batch(batch, np.full(streams, position), feeds, "step")
        return 1000 * (perf_counter() - began) / CALLS, 1000 * (process_time() - busy) / CALLS

    return call


def llama_cpp(path: Path, threads: int) -> Engine:
    """Load llama.cpp's server inside this process and return a function that times it."""
    import xllamacpp  # pyright: ignore[reportMissingImports]  (bench alone)

    # Load the model on the CPU, with room for all streams
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_parallel = max(STREAMS)
    parameters.n_ctx = CONTEXT * max(STREAMS)
    parameters.warmup, parameters.n_gpu_layers, parameters.verbosity = False, 0, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server, pool = xllamacpp.Server(parameters), ThreadPoolExecutor(max(STREAMS))

    # Complete a prompt on each stream at once
    def complete(slot: int) -> float:
        request = {
            "prompt": [1] + [5] * (PROMPT - 1),
            "n_predict": CALLS,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": True,
            "id_slot": slot,
        }
        answer = server.handle_completions(request)
        return (json.loads(answer) if isinstance(answer, str) else answer)["timings"][
            "predicted_per_token_ms"
        ]

    def call(streams: int) -> Times:
        busy = process_time()
        elapsed = max(pool.map(complete, range(streams)))
        return elapsed, 1000 * (process_time() - busy) / CALLS

    return call


def _serve(connection: Connection, load: Callable[[], Engine]) -> None:
    engine = load()
    while streams := connection.recv():
        connection.send(engine(streams))


@contextmanager
def in_a_process(load: Callable[[], Engine]) -> Iterator[Engine]:
    """Run an engine in a process of its own, and yield a function that times it, warmed up."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(there, load), daemon=True)
    process.start()

    def call(streams: int) -> Times:
        here.send(streams)
        return here.recv()

    for streams in STREAMS:
        call(streams)
    yield call
    here.send(0)
    process.join()


def main(
    artifact: Annotated[Path, typer.Argument(help="Artifact of the 4B model's shape.")],
    precision: Annotated[str, typer.Option(help="Precisions, comma-separated.")] = "q4f16",
    rounds: Annotated[
        int, typer.Option(help="Rounds, of which minima and medians are taken.")
    ] = 15,
    threads: Annotated[int, typer.Option(help="Threads of each engine.")] = 2,
    model: Annotated[
        Path | None, typer.Option(help="GGUF to write and keep; by default it is deleted.")
    ] = None,
    out: harness.Out = harness.RESULTS / "llama_cpp.json",
) -> None:
    """Measure and print both engines' milliseconds a token."""
    results = harness.describe(
        "milliseconds a token of decoders of one shape, in turn", "xllamacpp"
    )
    results |= {"threads": threads, "position": PROMPT, "rounds": rounds}
    with TemporaryDirectory(dir=artifact.resolve().parent) as scratch:
        path = model or Path(scratch) / "llama.gguf"
        if not path.exists():
            write_gguf(Manifest.read(artifact), path)
        for name in precision.split(","):
            with (
                in_a_process(partial(ours, artifact, name, threads)) as mine,
                in_a_process(partial(llama_cpp, path, threads)) as theirs,
            ):
                times: dict[int, list[tuple[Times, Times]]] = {streams: [] for streams in STREAMS}
                for _ in range(rounds):
                    for streams, pairs in times.items():
                        pairs.append((mine(streams), theirs(streams)))
            results[name] = _compare(times)
    harness.write(out, results)
    print(json.dumps(results, indent=1))


def _compare(times: dict[int, list[tuple[Times, Times]]]) -> dict[str, dict[int, dict[str, float]]]:
    """Return milliseconds a token, and our speed as a multiple of llama.cpp's.

    llama.cpp's speed is taken with the same number of streams, and with one.
    """
    kinds = {"min": (0, min), "median": (0, median), "processor": (1, median)}
    results = {}
    for kind, (which, middle) in kinds.items():
        ours, theirs = (
            {
                streams: middle([pair[engine][which] / streams for pair in pairs])
                for streams, pairs in times.items()
            }
            for engine in (0, 1)
        )
        results[kind] = {
            streams: {
                "ms": round(ours[streams], 1),
                "llama_cpp_ms": round(theirs[streams], 1),
                "times_llama_cpp": round(theirs[streams] / ours[streams], 3),
                "times_llama_cpp_alone": round(theirs[1] / ours[streams], 3),
            }
            for streams in times
        }
    return results


if __name__ == "__main__":
    harness.run(main)
