"""Datasets: a catalogue of layouts, opening, checking and preparing them."""

from rsmamba_cli.datasets.catalogue import catalogue, get_dataset
from rsmamba_cli.datasets.check import DatasetReport, SplitReport, check_dataset
from rsmamba_cli.datasets.fetch import fetch_dataset
from rsmamba_cli.datasets.info import IGNORE, DatasetClass, DatasetInfo
from rsmamba_cli.datasets.inputs import DatasetInput
from rsmamba_cli.datasets.prepare import PrepareReport, prepare_dataset
from rsmamba_cli.datasets.splits import Dataset, Sample, Split, open_dataset, open_split

__all__ = [
    "IGNORE",
    "Dataset",
    "DatasetClass",
    "DatasetInfo",
    "DatasetInput",
    "DatasetReport",
    "PrepareReport",
    "Sample",
    "Split",
    "SplitReport",
    "catalogue",
    "check_dataset",
    "fetch_dataset",
    "get_dataset",
    "open_dataset",
    "open_split",
    "prepare_dataset",
]
