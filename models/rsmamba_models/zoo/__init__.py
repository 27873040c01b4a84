"""What there is by name, in tables that need no torch: architectures, encoders, decoders.

A module a family. ``registry`` puts them together.
"""

from rsmamba_models.zoo.entry import DecoderEntry, EncoderEntry, Entry

__all__ = ["DecoderEntry", "EncoderEntry", "Entry"]
