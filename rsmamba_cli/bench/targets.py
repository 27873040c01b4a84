"""What the project means to reach, and whether a run of the bench reached it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rsmamba_cli.bench.records import Record, Report
from rsmamba_cli.bench.suites import ATTENTION_SIZES, MLSTM_SIZES, SCANS

Measure = Callable[[Report, Record], float | None]
Sizes = Mapping[str, int | str]

_MODEL = "rsm_ss_tiny"
_GB = 1e9


@dataclass(frozen=True)
class Target:
    """One aim.

    Attributes:
        case: Case of the record that tells.
        form: Its form.
        peer: What it is held against.
        aim: The number to reach.
        measure: Takes that number from the record; None where the run did not measure it.
        sizes: Sizes that the record must have.
        group: Its group.
        most: The aim is an upper bound, not a lower one.
        unit: ``x`` or ``GB``.
    """

    case: str
    form: str
    peer: str
    aim: float
    measure: Measure
    sizes: Sizes = field(default_factory=dict)
    group: str = "ops"
    most: bool = False
    unit: str = "x"


@dataclass(frozen=True)
class Verdict:
    """A target and what a run reached; None where it did not measure it."""

    target: Target
    work: str
    reached: float | None

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached."""
        if self.reached is None:
            return None
        aim = self.target.aim
        return self.reached <= aim if self.target.most else self.reached >= aim


def verdicts(report: Report) -> list[Verdict]:
    """The targets whose cases are in ``report``, at their sizes, each with what was reached."""
    found = []
    for target in _targets():
        record = _record(report, target.group, target.case, target.form, target.sizes)
        if record is not None:
            side = record.sizes.get("side") if target.group == _MODEL else None
            name = f"{target.group} {side} x {side}" if side else target.case
            work = f"{name}: {target.form}"
            found.append(Verdict(target, work, target.measure(report, record)))
    return found


def _targets() -> list[Target]:
    loop = "step loop"
    targets = []
    for name, aim in (("s1", 200.0), ("s2", 400.0), ("s3", 290.0), ("n1b", 80.0)):
        targets.append(_scan("forward", name, "native", loop, aim, _faster(loop)))
    # No kernel can be below the time of its multiplications alone.
    bound = "instruction bound"
    targets.append(_scan("forward", "s1", "native", bound, 1.5, _over_bound, most=True))
    for name in ("s1", "s2", "s3"):
        targets.append(_scan("forward", name, "torch", loop, 25.0, _faster(loop)))
    for name in SCANS:
        forward = "native forward"
        targets.append(
            _scan("backward", name, "native", "its forward", 4.0, _slower(forward), most=True)
        )
    for direction in ("forward", "backward"):
        for name in SCANS:
            targets.append(
                _scan(direction, name, "native, 2 threads", "1 thread", 1.85, _faster("native"))
            )
    mlstm = "mLSTM"
    targets += [
        Target(mlstm, "chunkwise", "parallel", 46.0, _faster("parallel"), MLSTM_SIZES),
        Target(
            *(mlstm, "chunkwise", "memory at a quarter of the tokens", 4.4, _growth),
            {**MLSTM_SIZES, "tokens": 4 * int(MLSTM_SIZES["tokens"])},
            most=True,
        ),
    ]
    attention = "neighbourhood attention"
    targets += [
        Target(attention, "native", "unfold", 100.0, _faster("unfold"), ATTENTION_SIZES),
        Target(
            *(attention, "native, 2 threads", "1 thread", 1.85, _faster("native")), ATTENTION_SIZES
        ),
    ]
    targets.append(
        Target("forward", "native", loop, 90.0, _faster(loop), {"side": 512}, group=_MODEL)
    )
    for side, peak in ((1024, 0.8), (2048, 2.5), (4096, 10.0)):
        targets.append(
            Target(
                *("one pass", "native", "peak memory above the weights", peak, _peak),
                {"side": side},
                group=_MODEL,
                most=True,
                unit="GB",
            )
        )
    return targets


def _scan(
    direction: str,
    name: str,
    form: str,
    peer: str,
    aim: float,
    measure: Measure,
    *,
    most: bool = False,
) -> Target:
    return Target(f"scan {direction} {name}", form, peer, aim, measure, SCANS[name], most=most)


def _record(report: Report, group: str, case: str, form: str, sizes: Sizes) -> Record | None:
    for record in report.records:
        if (record.group, record.case, record.form) == (group, case, form) and sizes.items() <= (
            record.sizes.items()
        ):
            return record
    return None


def _faster(peer: str) -> Measure:
    return lambda report, record: record.ratios.get(peer)


def _slower(peer: str) -> Measure:
    return lambda report, record: 1 / record.ratios[peer] if record.ratios.get(peer) else None


def _over_bound(report: Report, record: Record) -> float | None:
    return 1 / record.share if record.share else None


def _peak(report: Report, record: Record) -> float | None:
    return None if record.peak_bytes is None else record.peak_bytes / _GB


def _growth(report: Report, record: Record) -> float | None:
    """This record's memory over that of the same form at a quarter of the tokens."""
    sizes = {**record.sizes, "tokens": int(record.sizes["tokens"]) // 4}
    quarter = _record(report, record.group, record.case, record.form, sizes)
    if quarter is None or not quarter.peak_bytes or record.peak_bytes is None:
        return None
    return record.peak_bytes / quarter.peak_bytes
