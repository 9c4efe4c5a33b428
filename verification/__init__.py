"""An artifact checked from single operators to words, and the certificate that this ends in."""
