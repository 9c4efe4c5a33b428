"""Word and character error rates of artifacts on recordings whose text is known."""
