"""The lines of the tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One registered architecture.

    Attributes:
        name: What ``create_model`` takes.
        family: The paper's models it belongs to.
        task: ``segmentation``, ``change``, ``multimodal`` or ``classification``.
        module: Module of ``rsmamba_models`` that holds the class.
        class_name: The class.
        preset: Constructor arguments that make this size.
        paper: Where it is from.
        other_tasks: Further tasks that ``create_model(name, task=...)`` builds it for, each with
            the ``(module, class)`` that does.
    """

    name: str
    family: str
    task: str
    module: str
    class_name: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""
    other_tasks: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that it can be built for, its own first."""
        return tuple(self.builders)

    @property
    def builders(self) -> dict[str, tuple[str, str]]:
        """The ``(module, class)`` that builds it for each task.

        Any segmentation network also takes two modalities, stacked.
        """
        found = {self.task: (self.module, self.class_name), **self.other_tasks}
        if self.task == "segmentation":
            found.setdefault("multimodal", ("fusion", "EarlyFusion"))
        return found


@dataclass(frozen=True)
class EncoderEntry:
    """One pyramid encoder, for ``segmenter.Segmenter``.

    Attributes:
        name: What ``Segmenter(encoder=...)`` takes.
        family: The paper's models it belongs to.
        module: Module of ``rsmamba_models`` that holds the class.
        class_name: The class.
        preset: Constructor arguments that make this size.
    """

    name: str
    family: str
    module: str
    class_name: str
    preset: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DecoderEntry:
    """One decoder, for ``segmenter.Segmenter``.

    Attributes:
        name: What ``Segmenter(decoder=...)`` takes.
        module: Module of ``rsmamba_models`` that holds the class.
        class_name: The class.
        paper: Where it is from.
    """

    name: str
    module: str
    class_name: str
    paper: str = ""


def segmenter_entry(name: str, family: str, preset: Mapping[str, Any], paper: str) -> Entry:
    """The line of an architecture that is an encoder and a decoder.

    Args:
        name: What ``create_model`` takes.
        family: The paper's models it belongs to.
        preset: Arguments of ``Segmenter``.
        paper: Where it is from.
    """
    return Entry(
        name=name,
        family=family,
        task="segmentation",
        module="segmenter",
        class_name="Segmenter",
        preset=preset,
        paper=paper,
        other_tasks={"change": ("change", "SiameseChangeDetector")},
    )


def classifier_entry(encoder: EncoderEntry) -> Entry:
    """The line of an encoder with a classifier on it, as it is pre-trained.

    Args:
        encoder: Its line.
    """
    return Entry(
        name=f"{encoder.name}_classifier",
        family=encoder.family,
        task="classification",
        module="classifier",
        class_name="Classifier",
        preset={"encoder": encoder.name},
    )
