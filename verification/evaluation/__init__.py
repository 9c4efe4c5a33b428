"""The measurement of word and character error rates on recordings whose text is known."""
