"""Scenes, grids, blending, the crash-safe store and vector output."""
