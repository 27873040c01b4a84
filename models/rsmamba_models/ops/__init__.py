"""Selective scans: one public function each, several back ends behind it."""

from rsmamba_models.ops.backends import available_backends, resolve_backend
from rsmamba_models.ops.orders import inverse_order, scan_order
from rsmamba_models.ops.projected import projected_scan
from rsmamba_models.ops.scan import directional_scan, selective_scan

__all__ = [
    "available_backends",
    "directional_scan",
    "inverse_order",
    "projected_scan",
    "resolve_backend",
    "scan_order",
    "selective_scan",
]
