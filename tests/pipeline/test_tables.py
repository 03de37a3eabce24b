"""Tables: columns that line up in a pipe, rich at a terminal."""

from __future__ import annotations

import io

from alignpipe.tables import cell, show_table


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_figures_stand_to_the_right():
    plain, screen = io.StringIO(), Screen()
    rows = [["win rate", "-", "0.81 [0.70, 0.90]"]]
    show_table(["", "sft", "ppo"], rows, "eval", figures=True, out=plain)
    assert plain.getvalue() == "eval\n          sft                ppo\nwin rate    -  0.81 [0.70, 0.90]\n"
    show_table(["", "sft", "ppo"], rows, "eval", figures=True, out=screen)
    assert "0.81 [0.70, 0.90]" in screen.getvalue()


def test_words_stand_to_the_left(capsys):
    show_table(("key", "type"), [("lr", "float"), ("max_steps", "int")])
    assert capsys.readouterr().out == "key        type\nlr         float\nmax_steps  int\n"


def test_cells():
    assert [cell(value) for value in (None, 0.12345, 12345.678, 3, "a")] == ["-", "0.123", "1.235e+04", "3", "a"]
    assert [cell(-0.0), cell(-0.0001)] == ["0.000", "0.000"]
