"""What a run of the bench found, as typed records that go to JSON and back."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Floor(_Frozen):
    """The least that a computation asks of the machine, whoever writes it.

    Attributes:
        exps: Exponentials, one lane each.
        fmas: Multiplications and fused multiply-adds, those inside the exponentials included; in
            lanes (a 16-lane instruction is 16).
        instructions: All vector instructions of the arithmetic, in lanes; 0 where they are no more
            than ``fmas``.
        bytes: What is read and written if everything goes through memory once.
    """

    exps: float = 0.0
    fmas: float = 0.0
    instructions: float = 0.0
    bytes: float = 0.0


class Limits(_Frozen):
    """What the machine reaches, with the threads of the run.

    Attributes:
        exp_per_second: float32 exponentials by the quickest library function, data in cache.
        exp_source: Which function that is.
        fma_per_second: Lanes of fused multiply-adds, from a float32 matrix product.
        bytes_per_second: The better of a large copy and a large ``a = b + s c``.
    """

    exp_per_second: float = Field(gt=0)
    exp_source: str
    fma_per_second: float = Field(gt=0)
    bytes_per_second: float = Field(gt=0)

    def best(self, other: "Limits") -> "Limits":
        """The higher rate of each kind: what else the machine did can only have lowered them."""
        faster = self if self.exp_per_second >= other.exp_per_second else other
        return Limits(
            exp_per_second=faster.exp_per_second,
            exp_source=faster.exp_source,
            fma_per_second=max(self.fma_per_second, other.fma_per_second),
            bytes_per_second=max(self.bytes_per_second, other.bytes_per_second),
        )

    def seconds(self, floor: Floor) -> dict[str, float]:
        """The time that each part of ``floor`` takes at these rates, parts of zero left out."""
        parts = {
            "fma": floor.fmas / self.fma_per_second,
            "issue": floor.instructions / self.fma_per_second,
            "memory": floor.bytes / self.bytes_per_second,
            "exp": floor.exps / self.exp_per_second,
        }
        return {name: seconds for name, seconds in parts.items() if seconds > 0}


class Record(_Frozen):
    """One way of doing one computation.

    Attributes:
        group: ``ops``, or the name of a model.
        case: What is computed.
        form: How: a back end, a form of the op, or a peer.
        sizes: The sizes that make the case.
        threads: CPU threads.
        median_seconds: Of ``repeats`` runs; None where only memory was measured.
        min_seconds: The quickest of them.
        repeats: How many runs were timed.
        ratios: Per peer, its median over this one: so many times as fast as the peer.
        limits: Seconds at the machine's own rates, per kind of work: ``fma`` and ``memory`` are
            lower bounds; ``issue`` is one where additions and roundings share the pipes of the
            multiply-adds (as on Intel's processors); ``exp`` is what the exponentials alone take in
            the quickest library, which a kernel may beat.
        limit: The lower bound that binds.
        share: Its seconds over the median: 1 is as fast as the machine can.
        peak_bytes: Largest memory above the inputs of an op, or above the weights of a model.
        difference: Largest difference from the case's first form, over the largest value there.
        note: Why something is missing.
    """

    group: str
    case: str
    form: str
    sizes: dict[str, int | str]
    threads: int = Field(ge=1)
    median_seconds: float | None = None
    min_seconds: float | None = None
    repeats: int = 0
    ratios: dict[str, float] = {}
    limits: dict[str, float] = {}
    limit: Literal["fma", "memory"] | None = None
    share: float | None = None
    peak_bytes: int | None = None
    difference: float | None = None
    note: str = ""


class Machine(_Frozen):
    """Where the bench ran.

    Attributes:
        processor: Its name.
        system: Operating system and architecture.
        cores: Logical cores that this process may use.
        load: Tasks that ran or waited for a core, on average over the minute before the start; None
            where the system does not tell.
        versions: Of rsmamba, Python and PyTorch.
        back_ends: Per scan back end "usable", or why it is not.
    """

    processor: str
    system: str
    cores: int
    load: float | None
    versions: dict[str, str]
    back_ends: dict[str, str]


class Report(_Frozen):
    """Everything that one run found.

    Attributes:
        format: Version of this layout.
        command: What was typed, or an equivalent.
        scale: ``quick``, ``normal`` or ``full``.
        threads: Threads of all forms that do not name another number.
        machine: Where it ran.
        limits: What the machine reaches.
        records: One per form of every case, in the order in which they ran.
    """

    format: Literal[1] = 1
    command: str
    scale: str
    threads: int
    machine: Machine
    limits: Limits
    records: tuple[Record, ...]


def ratios(
    form: str, peers: Sequence[str], samples: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Per peer that was timed, its median over that of ``form``: above 1, ``form`` is faster.

    Args:
        form: The form that is judged.
        peers: Those it is held against, in this order; those that were not timed are left out.
        samples: Seconds of every timed run, per form.
    """
    own = median(samples[form])
    return {
        peer: median(samples[peer]) / own for peer in peers if peer != form and samples.get(peer)
    }


def binding(limits: Mapping[str, float]) -> Literal["fma", "memory"] | None:
    """Of the two lower bounds that hold everywhere the higher one; None if there is neither."""
    fma, memory = limits.get("fma", 0.0), limits.get("memory", 0.0)
    if not max(fma, memory):
        return None
    return "fma" if fma >= memory else "memory"
