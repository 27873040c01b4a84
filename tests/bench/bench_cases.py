"""Cases that run in milliseconds, and limits that are not measured."""

from rsmamba_cli.bench import Limits, Machine, Record, Spec

LIMITS = Limits(
    exp_per_second=2e9, exp_source="torch.exp", fma_per_second=4e9, bytes_per_second=1e9
)
SCAN = {"batch": 1, "order": "cross", "channels": 4, "states": 2, "side": 4}
SMALLEST_MODEL = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "ssm_d_state": 2}
TINY = (
    Spec("ops", "scan forward", "scan_forward", SCAN),
    Spec("ops", "scan backward", "scan_backward", SCAN),
    Spec("ops", "scan training step", "scan_training", SCAN),
    Spec("ops", "mLSTM", "mlstm", {"heads": 1, "head": 4, "tokens": 9}),
    Spec("ops", "attention", "neighborhood", {"heads": 1, "head": 4, "window": 3, "side": 6}),
)
MACHINE = Machine(
    processor="A <fast> one",
    system="Linux x86_64",
    cores=2,
    load=0.1,
    versions={"torch": "2.9"},
    back_ends={"torch": "usable", "triton": "triton is not installed"},
)


def record(form: str = "native", **more: object) -> Record:
    """A record with what every record has."""
    given = {"group": "ops", "case": "scan", "form": form, "sizes": {"side": 4}, "threads": 1}
    return Record(**{**given, **more})
