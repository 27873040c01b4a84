"""Decoders: pyramids of maps to logits, usable on every encoder."""
