"""Decoders: from an encoder's maps to logits, shared by the families.

Each is built as ``Decoder(in_channels, num_classes, **arguments)``, where ``in_channels`` holds the
widths of the encoder's maps from fine to coarse, and takes these maps to logits at a resolution of
its own.
"""
