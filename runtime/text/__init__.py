"""Conversion of tokens to text, segments and subtitles, and of text to tokens."""
