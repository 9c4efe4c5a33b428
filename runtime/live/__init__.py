"""Live transcription of captured audio to tokens, segments, silences and warnings."""
