"""Another encoder: that of one precision in front of the decoder of another.

Run it: python examples/extend/encoder.py ARTIFACT CLIP
"""

import sys

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.encoder import Encoder
from voxtral_onnx.runtime.session import Session


class OtherEncoder(Encoder):
    """An encoder has new_cache, max_tokens and encode; this one only casts its embeddings to the decoder's type."""

    def __init__(self, transcriber: Transcriber, precision: str):
        manifest = transcriber.manifest
        graph = manifest.precisions[precision].encoder
        super().__init__(manifest, transcriber.encoder.mel, Session(transcriber.folder, graph, transcriber.device))
        self.dtype = manifest.precisions[transcriber.precision].activation_dtype

    def encode(self, cache, samples):
        """Audio embeddings [tokens, hidden_size] of samples [n]."""
        return super().encode(cache, samples).astype(self.dtype)


if __name__ == "__main__":
    with Transcriber(sys.argv[1], precision="q4f16") as transcriber:
        transcriber.encoder = OtherEncoder(transcriber, "fp32")
        print(transcriber.transcribe(sys.argv[2]).text)
