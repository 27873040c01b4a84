"""Decoders: from an encoder's maps to logits, shared by the families.

Each is built as ``Decoder(channels, num_classes, **arguments)``, ``channels`` being those of the
encoder's maps from fine to coarse, and takes these maps to logits at a resolution of its own.
"""
