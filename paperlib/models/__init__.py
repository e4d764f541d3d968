"""Encoders from image tokens to signals: arrays in, arrays out, no files."""
