"""``rsmamba bench pipeline``: what a map costs beside its model, against other ways to make it.

``scenes`` draws the inputs, ``models`` are known exactly, ``forms`` are the ways to make a map,
``child`` runs one of them in a process of its own, ``suite`` runs them all and compares the maps,
``tables`` says what was found.
"""

from rsmamba_cli.bench.pipeline.records import Case, Flips, PipelineReport, Run, Target
from rsmamba_cli.bench.pipeline.suite import PipelineOptions, run_pipeline_bench
from rsmamba_cli.bench.pipeline.tables import pipeline_facts, pipeline_markdown, pipeline_tables

__all__ = [
    "Case",
    "Flips",
    "PipelineOptions",
    "PipelineReport",
    "Run",
    "Target",
    "pipeline_facts",
    "pipeline_markdown",
    "pipeline_tables",
    "run_pipeline_bench",
]
