"""Batches on their way: nothing is overwritten before it was taken, nothing read before it came."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from inference_models import Pixelwise, meta_of
from test_engine import Blocks, Drawn, plan_of, source_of

from rsmamba_cli.inference.engine import InProcessEngine
from rsmamba_cli.inference.predictor import Predictor
from rsmamba_cli.inference.staging import CudaStreams, Direct, Pool


class Late:
    """Copies as late as it may: answers when they are waited for, windows checked until then.

    That is what a GPU with streams is allowed to do.
    """

    def __init__(self):
        self.sent = self.taken = self.fetched = self.arrived = 0
        self.under_way = []

    def buffer(self, shape):
        return np.full(shape, np.nan, dtype=np.float32)

    def send(self, windows):
        self.sent += 1
        there = [x.clone() for x in windows]

        def taken():
            self.taken += 1
            for mine, host in zip(there, windows, strict=True):
                assert torch.equal(mine, host), "written to before it was taken"

        return there, taken

    def in_place(self, into):
        return None

    def fetch(self, answer, into):
        self.fetched += 1
        mine = answer.clone()
        self.under_way.append(into.data_ptr())
        assert len(set(self.under_way)) == len(self.under_way), "one buffer for two answers"

        def arrived():
            self.arrived += 1
            self.under_way.remove(into.data_ptr())
            into.copy_(mine)

        return arrived


def predictor_with(carrier, batch=1):
    meta = meta_of(1, 3)
    return Predictor(Pixelwise(1, 3), meta, batch_size=batch, carrier=carrier)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("hole", [None, (40, 120, 90)])
def test_late_copies_change_nothing(batch, hole):
    plan = plan_of((150, 210), batch=batch, strips=2)
    expected, found, late = Blocks(), Blocks(), Late()
    source = source_of(Drawn(150, 210, hole))
    InProcessEngine(source).run(plan, predictor_with(None, batch), expected)
    InProcessEngine(source).run(plan, predictor_with(late, batch), found)
    assert found.blocks.keys() == expected.blocks.keys()
    for key, arrays in expected.blocks.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found.blocks[key][name], array)
    assert late.sent == late.fetched == late.arrived > 5
    assert late.taken >= late.sent - 2 * 2  # all but the last ones of each strip


class Stream:
    """A stream that writes down what is asked of it."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def record_event(self):
        event = f"event of {self.name} at {len(self.log)}"
        self.log.append((self.name, "records", event))
        return SimpleNamespace(synchronize=lambda: self.log.append(("host", "waits", event)))

    def wait_event(self, event):
        # What the event stands for is told by waiting for it.
        event.synchronize()
        self.log[-1] = (self.name, *self.log[-1][1:])


def test_each_stream_waits_for_what_it_needs_and_the_host_for_nothing(monkeypatch):
    log = []
    streams = [Stream(name, log) for name in ("there", "back")]
    computing, made = Stream("computing", log), iter(streams)

    @contextmanager
    def on(stream):
        log.append((stream.name, "copies"))
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(made))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda x, stream: log.append(("kept for", stream.name))
    )
    carrier = CudaStreams(torch.device("cpu"))
    (sent,), taken = carrier.send([torch.ones(2)])
    arrived = carrier.fetch(sent * 2, into := torch.zeros(2))
    assert log == [
        ("there", "copies"),
        ("there", "records", "event of there at 1"),
        ("computing", "waits", "event of there at 1"),
        ("kept for", "computing"),
        ("computing", "records", "event of computing at 4"),
        ("back", "waits", "event of computing at 4"),
        ("back", "copies"),
        ("back", "records", "event of back at 7"),
        ("kept for", "back"),
    ]
    taken()
    arrived()
    assert log[-2:] == [
        ("host", "waits", "event of there at 1"),
        ("host", "waits", "event of back at 7"),
    ]
    assert into.tolist() == [2, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch", [1, 4])
def test_streams_change_nothing(batch):
    plan, device = plan_of((600, 1200), tile=64, batch=batch, strips=2), torch.device("cuda")
    found = []
    for carrier in (Direct(device), CudaStreams(device)):
        predictor = Predictor(
            Pixelwise(1, 3), meta_of(1, 3), device, batch_size=batch, carrier=carrier
        )
        found.append(Blocks())
        InProcessEngine(source_of(Drawn(600, 1200))).run(plan, predictor, found[-1])
    for key, arrays in found[0].blocks.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[1].blocks[key][name], array)


def test_answers_are_not_waited_for_by_who_begins():
    late = Late()
    predictor = predictor_with(late)
    window = np.ones((1, 1, 8, 8), dtype=np.float32)
    out = np.full((1, 3, 8, 8), np.nan, dtype=np.float32)
    pending = predictor.begin([window], [(0, 0)], out)
    assert np.isnan(out).all()
    pending.arrived()
    np.testing.assert_array_equal(out, predictor([window]))


def test_on_the_cpu_the_answer_is_computed_in_place():
    predictor = predictor_with(Direct(torch.device("cpu")))
    out = predictor.buffer((1, 3, 8, 8))
    predictor.begin([np.ones((1, 1, 8, 8), dtype=np.float32)], [(0, 0)], out).taken()
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-6)


def test_a_pool_hands_out_what_was_given_back():
    made = []

    def make():
        made.append(np.empty(1, dtype=np.float32))
        return made[-1]

    pool = Pool(make)
    first, second = pool.take(), pool.take()
    assert first is not second
    pool.give(first)
    assert pool.take() is first
    assert len(made) == 2
