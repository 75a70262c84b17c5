"""Progress: a bar in a terminal, lines in a pipe."""

import io
import re
import sys

import pytest

from keras_meanflow.training.plan import Plan
from keras_meanflow.training.run import train

KNOBS = dict(steps=6, log_every=4, batch_size=16, width=8, depth=1, points=40, sample_every=None)
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Trains with this standard output; returns what it shows."""

    def run(output):
        monkeypatch.setattr(sys, "stdout", output)
        train(Plan.of("gaussian").training(KNOBS), tmp_path, verbose=1)
        return output.getvalue()

    monkeypatch.setenv("FORCE_COLOR", "1")  # as some build servers do
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return run


def test_a_pipe_gets_a_line_each_log_period_without_control_characters(shown):
    text = shown(io.StringIO())
    assert not CONTROL.search(text) and "poch" not in text
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "4/6"], ["step", "6/6"]]
    assert all(re.search(r"steps/s .*v_error \S+  u_error \S+", line) for line in lines), text
    assert re.search(r"\d:\d\d:\d\d left", lines[0]) and "left" not in lines[1]


def test_a_terminal_gets_a_bar_of_80_characters(shown):
    text = shown(Terminal())
    assert "\x1b[" in text and "poch" not in text
    last = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part) for part in text.split("\r")][-1].strip()
    assert re.search(r"━ 6/6  \S+ steps/s  v_error \S+  u_error \S+$", last), last
    assert len(last) <= 80 and "…" not in last


def test_nothing_is_shown_unless_asked_for(tmp_path, capsys):
    train(Plan.of("gaussian").training(KNOBS), tmp_path, verbose=0)
    assert capsys.readouterr().out == ""
