"""Limits on input: the most bytes of each kind of file, and the ranges of numbers.

No file or answer from outside is read beyond these limits.
"""

from __future__ import annotations

KB, MB = 1 << 10, 1 << 20

# Bytes of a whole file
MANIFEST = MB
PARAMS = MB  # params.json, config.json, processor_config.json, generation_config.json, card.json
INDEX = MB  # model.safetensors.index.json
CERTIFICATE = 4 * MB
GRAPH = 4 * MB  # an ONNX file without its data files
HEADER = 4 * MB  # of a safetensors file; for 711 tensors it has 0.1 MB
GGUF_HEADER = 32 * MB  # it may include a tokenizer
TOKENIZER = 64 * MB  # tekken.json; the released model's has 15 MB
RECIPE = 64 * KB
HOTWORDS = 64 * KB
REFERENCE = MB  # a text beside a recording
REFERENCES = 64 * MB  # a table of recordings and texts
STATE = 64 * KB  # facts that this package remembers of its own runs
JOURNAL = 256 * MB  # a day of speech has about 40 MB
STREAM = 256 * KB  # the header of a saved stream; its arrays are as large as its caches
UNFINISHED = 4 * MB  # the record of an export, with graphs as the manifest has them
REPORT = 4 * MB  # what became of the blocks of a source
HUB_ANSWER = 4 * MB  # decompressed
SPOOL = 8192 * MB  # a recording that comes through a pipe: 24 hours of mono at a CD's rate

# A download fails when fewer bytes than these arrive in these seconds
SLOWEST_BYTES, SLOWEST_SECONDS = 60 * KB, 60

# Hz; telephones have 8,000, studios 384,000
SLOWEST_RATE, FASTEST_RATE = 1_000, 768_000
MOST_CHANNELS = 64  # of a recording: ambisonics of the seventh order, a MADI line
# Full scale is 1, but somebody may have written 32-bit integers as floats; the power spectrum of
# those is still finite in float32
LARGEST_SAMPLE = 2.0**31
# Seconds of silence that a file's time stamps may add up to: a pause takes a few bytes in the file,
# but as much computation as speech
LONGEST_SILENCE = 12 * 3600

# Samples of a recording that are kept in memory between looking through it and transcribing it;
# of a longer one they are decoded again. 32 MB, 8.7 minutes at 16 kHz
KEPT_SAMPLES = 8 * MB

# Bytes of a whole path, and of one name between slashes; Linux's PATH_MAX and NAME_MAX
LONGEST_PATH, LONGEST_NAME = 4096, 255

# Characters of a hotword or phrase; the longest place name has 85
LONGEST_HOTWORD = 100

# What a user may ask for
MOST_THREADS_PER_CORE = 4
MOST_STREAMS = 1024  # of one model at a time; an H200 holds 256
MOST_REPEATS = 1000  # of a measurement
