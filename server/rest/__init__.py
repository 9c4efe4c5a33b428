"""Recordings become text, as OpenAI's API for transcription asks for it."""
