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
GRAPH = 4 * MB  # whose weights are in data files
HEADER = 4 * MB  # of a safetensors file; one of 711 tensors has 0.1 MB
GGUF_HEADER = 32 * MB  # it may hold a tokenizer
TOKENIZER = 64 * MB  # tekken.json; the released model's has 15 MB
RECIPE = 64 * KB
HOTWORDS = 64 * KB
REFERENCE = MB  # a text beside a recording
REFERENCES = 64 * MB  # a table of recordings and texts
STATE = 64 * KB  # what this package remembers of its own runs
JOURNAL = 256 * MB  # a day of speech has about 40 MB
STREAM = 256 * KB  # the first lines of a saved stream; its arrays are as large as its caches
UNFINISHED = 4 * MB  # of an export: graphs as the manifest has them
REPORT = 4 * MB  # tables that quantising has measured
HUB_ANSWER = 4 * MB  # unpacked
SPOOL = 8192 * MB  # of a recording that comes through a pipe; 24 hours of a CD's sound in mono

# Of a download: it ends when fewer bytes than these come in so many seconds
SLOWEST_BYTES, SLOWEST_SECONDS = 60 * KB, 60

# Hz; telephones have 8,000, studios 384,000
SLOWEST_RATE, FASTEST_RATE = 1_000, 768_000
MOST_CHANNELS = 64  # of a recording: ambisonics of the seventh order, a MADI line
# Full scale is 1: 32-bit integers that somebody wrote as floats; the power of such a spectrum is
# finite in float32
LARGEST_SAMPLE = 2.0**31
# Seconds of silence that time stamps may ask for in all: each pause of a file takes a few bytes,
# and as long as speech does
LONGEST_SILENCE = 12 * 3600

# Samples of a recording that are kept in memory between looking through it and transcribing it;
# of a longer one they are decoded again. 32 MB, 8.7 minutes at 16 kHz
KEPT_SAMPLES = 8 * MB

# Characters of a hotword or phrase; the longest place name has 85
LONGEST_HOTWORD = 100

# What a user may ask for
MOST_THREADS_PER_CORE = 4
MOST_STREAMS = 1024  # of one model at a time; an H200 holds 256
MOST_REPEATS = 1000  # of a measurement
