"""Tokens to text, segments and subtitles, and text to tokens."""
