"""What ``rsmamba bench`` runs: every form of every op against its peers and the machine's limits.

``suites`` says what is measured, ``workloads`` makes it callable, ``timing`` and ``memory`` measure
it, ``limits`` measures the machine, ``runner`` puts the records together, ``tables`` writes them.
``profile`` splits the time of one pass by operators.
"""

from rsmamba_cli.bench.profile import OperatorTime, profile_model
from rsmamba_cli.bench.records import Limits, Machine, Record, Report
from rsmamba_cli.bench.runner import BenchOptions, run_bench
from rsmamba_cli.bench.suites import Scale, Spec, model_suite, ops_suite

__all__ = [
    "BenchOptions",
    "Limits",
    "Machine",
    "OperatorTime",
    "Record",
    "Report",
    "Scale",
    "Spec",
    "model_suite",
    "ops_suite",
    "profile_model",
    "run_bench",
]
