"""Tiny modules in place of checkpoints, for `predict` and `change` as a whole."""

from pathlib import Path

import pytest


@pytest.fixture
def use_model(monkeypatch):
    """Make `predict` and `change` run a module with given metadata."""

    def use(model, meta):
        from rsmamba_cli.inference import prepare

        monkeypatch.setattr(prepare, "checkpoint_path", lambda *_: Path("fake.safetensors"))
        monkeypatch.setattr(prepare, "read_task_meta", lambda *_: meta)
        monkeypatch.setattr(prepare, "load_model", lambda *_: model)
        return model

    return use
