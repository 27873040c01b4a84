"""The commands: a module each, imported when its command runs.

Every module here has an ``app`` (a ``typer.Typer``) and stays light at import: torch, rasterio,
numpy, pydantic and rich are imported inside the functions that need them.
"""
