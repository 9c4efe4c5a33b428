"""A server on the Python API: POST a recording, get lines of JSON, one for every word group, while it decodes.

Run it: python examples/extend/server.py ARTIFACT 8000
Then:   curl --no-buffer --data-binary @clip.wav localhost:8000
"""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import soundfile

from voxtral_onnx import Transcriber


class Handler(BaseHTTPRequestHandler):
    """Every request has a stream of its own; all share the sessions."""

    transcriber: Transcriber

    def do_POST(self):
        """Transcribe the request's body: mono, at the model's rate."""
        body = io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))
        samples, rate = soundfile.read(body, dtype="float32")
        if rate != self.transcriber.sample_rate or samples.ndim != 1:
            return self.send_error(415, f"expected mono at {self.transcriber.sample_rate} Hz")
        self.send_response(200)
        self.send_header("Content-Type", "application/jsonl")
        self.end_headers()
        for segment in self.transcriber.transcribe(samples):
            self.wfile.write(json.dumps({"end": segment.end, "text": segment.text}).encode() + b"\n")
            self.wfile.flush()


if __name__ == "__main__":
    Handler.transcriber = Transcriber(sys.argv[1])
    with ThreadingHTTPServer(("localhost", int(sys.argv[2])), Handler) as server:
        print(f"http://localhost:{server.server_port}", flush=True)
        server.serve_forever()
