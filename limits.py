"""How much is taken from outside: bytes of each kind of file, and the ranges of numbers.

Whoever reads a file or an answer that others have made reads no more than stands here.
"""

from __future__ import annotations

KB, MB = 1 << 10, 1 << 20

# Bytes of a whole file
MANIFEST = MB
PARAMS = MB  # params.json, config.json, processor_config.json, generation_config.json, card.json
INDEX = MB  # of the shards of a checkpoint
CERTIFICATE = 4 * MB
TOKENIZER = 64 * MB  # tekken.json; the released model's has 15 MB
RECIPE = 64 * KB
HOTWORDS = 64 * KB
REFERENCE = MB  # a text beside a recording
REFERENCES = 64 * MB  # a table of recordings and texts
STATE = 64 * KB  # what this package remembers of its own runs
UNFINISHED = 4 * MB  # of an export: graphs as the manifest has them
REPORT = 4 * MB  # tables that quantising has measured
HUB_ANSWER = 4 * MB  # unpacked

# Of a download: it ends when fewer bytes than these come in so many seconds
SLOWEST_BYTES, SLOWEST_SECONDS = 60 * KB, 60

# Hz; telephones have 8,000, studios 384,000
SLOWEST_RATE, FASTEST_RATE = 1_000, 768_000
