import sys

import pytest
import written

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes

EXAMPLE = get("tensorboard").example.encode()


@pytest.fixture
def write(tmp_path):
    """Write an event file with TensorBoard's own writer: (step, tag, value) each; returns its bytes."""
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    def written_file(*scalars):
        events = writer.EventFileWriter(str(tmp_path))
        for step, tag, value in scalars:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            events.add_event(Event(wall_time=1700000000.5 + step, step=step, summary=summary))
        events.close()
        [file] = tmp_path.iterdir()
        return file.read_bytes()

    return written_file


def found(data):
    records, unread = written.read("tensorboard", data)
    return [(record.table, record.values) for record in records], unread


def test_scalars_are_steps_and_scores(write):
    data = write(
        (1, "train/loss", 2.9), (1, "train/learning_rate", 0.001), (1, "mfu(%)", 40.5), (1, "lm loss vs samples", 2.9),
        (2, "train/loss", 2.5), (2, "eval/loss", 2.75), (2, "val_accuracy", 0.5), (2, "Loss/test", 3.5),
    )  # fmt: skip
    assert read_bytes(data).formats == ["tensorboard"]
    one, two = {"step": 1, "time": 1700000001.5}, {"step": 2, "time": 1700000002.5}
    assert found(data) == (
        [
            ("steps", {**one, "loss": 2.9, "lr": 0.001, "mfu": pytest.approx(0.405)}),
            ("steps", {**two, "loss": 2.5}),
            ("evals", {**two, "task": "evaluation", "metric": "loss", "value": 2.75}),
            ("evals", {**two, "task": "validation", "metric": "accuracy", "value": 0.5}),
            ("evals", {**two, "task": "test", "metric": "Loss", "value": 3.5}),
        ],
        0,
    )


def test_a_file_that_ends_within_a_record_is_read_as_far_as_it_goes(write):
    data = write((1, "loss", 2.5), (2, "loss", 2.25))
    rows, unread = found(data[:-5])
    assert ([values["step"] for _, values in rows], unread) == ([1], 1)


def test_a_record_whose_checksum_is_wrong_ends_the_reading(write):
    data = bytearray(write((1, "loss", 2.5), (2, "loss", 2.25)))
    data[-6] ^= 1
    rows, unread = found(bytes(data))
    assert ([values["step"] for _, values in rows], unread) == ([1], 1)


def test_without_the_package_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    rows, unread = found(EXAMPLE)
    assert [(table, values["kind"]) for table, values in rows] == [("events", "unreadable")]
    assert rows[0][1]["message"].endswith("pip install tensorboard")
    assert unread == 0


@pytest.mark.parametrize("data", [
    b'the version is "brain.Event:2", as in every such file\n',
    EXAMPLE[12:],
    b"\0" * 40 + b"brain.Event:2",
    b"\xff" * 12 + b"brain.Event:2" + b"\0" * 40,
])  # fmt: skip
def test_what_only_holds_the_words_is_no_event_file(data):
    assert read_bytes(data).formats == []
