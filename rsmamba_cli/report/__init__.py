"""Pictures of results: quick-looks of scenes, masks and changes."""

from rsmamba_cli.report.quicklook import write_change_quicklook, write_quicklook

__all__ = ["write_change_quicklook", "write_quicklook"]
