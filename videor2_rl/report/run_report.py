"""A demo's or a run's report: page, numbers, and what is printed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from videor2_rl.report.data import failures, read_report_data, report_numbers
from videor2_rl.report.frames import Frames
from videor2_rl.report.headline import headline
from videor2_rl.report.html import render
from videor2_rl.report.plots import all_plots
from videor2_rl.report.rollouts import shown_rollouts
from videor2_rl.report.tables import terminal_tables
from videor2_rl.run.files import write_json_atomic, write_text_atomic


def write_run_report(folder: Path, out: Path, console: Console) -> Path:
    """Write report.html and report.json into `out` and print the table; returns the page.

    Raises:
        ConfigError: the folder holds nothing to report, or one of its files is broken.
    """
    data = read_report_data(folder)
    rollouts = shown_rollouts(data, Frames())
    page = out / "report.html"
    write_text_atomic(page, render(data, plots=all_plots(data), rollouts=rollouts))
    write_json_atomic(out / "report.json", report_numbers(data))
    for table in terminal_tables(data):
        console.print(table)
    for sentence in (*failures(data), headline(data).sentence, *data.missing):
        if sentence:
            console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    return page
