"""What the bench of the pipeline found, as typed records that go to JSON and back."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from rsmamba_cli.bench.records import Machine


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Case(_Frozen):
    """One scene and one model.

    Attributes:
        model: which of the two.
        layout: how the scene is stored.
        height: of the scene, in pixels.
        width: of the scene, in pixels.
        trim: pixels dropped from inner window sides.
        memory: what the toolkit is allowed, as `--memory` takes it; "" is what the bench was told.
    """

    model: str
    layout: str
    height: int
    width: int
    trim: int
    memory: str = ""

    @property
    def pixels(self) -> int:
        """Of the scene."""
        return self.height * self.width


class Run(_Frozen):
    """One way to compute one case.

    Attributes:
        case: what was computed.
        form: how.
        rounds: how often; times are medians.
        mask_seconds: to the finished mask, a tiled and deflated GeoTIFF; None if not measured.
        cpu_seconds: the same, of all threads together.
        after_seconds: from there to the COG with overviews, read back and compared.
        peak_bytes: most memory above the loaded process.
        allowed_bytes: what it was allowed; None where nothing bounds it.
        windows: that went through the model.
        differing: pixels that are not those of an exact single pass; None if not compared.
        note: why something is missing.
    """

    case: Case
    form: str
    rounds: int = 0
    mask_seconds: float | None = None
    cpu_seconds: float | None = None
    after_seconds: float | None = None
    peak_bytes: int | None = None
    allowed_bytes: int | None = None
    windows: int | None = None
    differing: int | None = None
    note: str = ""

    @property
    def megapixels_per_second(self) -> float | None:
        """To the finished mask."""
        return self.case.pixels / 1e6 / self.mask_seconds if self.mask_seconds else None


class Flips(_Frozen):
    """What one batch size and number of threads changes in a map of the demonstration model.

    Attributes:
        batch_size: windows a forward pass.
        threads: of the CPU.
        pixels: of the map.
        labels: pixels with another class than in the first map.
        probabilities: values of the probabilities, in steps of 0.004, unlike those of the first.
        seconds: that the map took.
    """

    batch_size: int
    threads: int
    pixels: int
    labels: int
    probabilities: int
    seconds: float


class Target(_Frozen):
    """One aim and what was reached.

    Attributes:
        name: what is aimed at.
        aim: in words.
        reached: in words.
        met: whether that is enough.
    """

    name: str
    aim: str
    reached: str
    met: bool


class PipelineReport(_Frozen):
    """Everything that one run found.

    Attributes:
        format: version of this layout.
        command: what was typed, or an equivalent.
        scale: ``quick``, ``normal`` or ``large``.
        tile: side of a window, in pixels.
        overlap: of neighbouring windows, in pixels.
        machine: where it ran.
        runs: in the order in which they ran.
        targets: what was aimed at.
        flips: maps of the demonstration model with other batch sizes and numbers of threads.
    """

    format: Literal[1] = 1
    command: str
    scale: str
    tile: int
    overlap: int
    machine: Machine
    runs: tuple[Run, ...]
    targets: tuple[Target, ...]
    flips: tuple[Flips, ...] = ()
