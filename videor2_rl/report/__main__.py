"""The report of a demo or a run, or a comparison of two evaluations.

python -m videor2_rl.report FOLDER     writes report.html and report.json into it
python -m videor2_rl.report A B        two evaluations' folders: what differs in their cards, and their paired scores
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from videor2_rl.config.errors import ConfigError


def write_report(folder: Path) -> Path:
    """Write report.html and report.json into a demo's or a run's folder and print the table; returns the page.

    Raises:
        ConfigError: the folder holds nothing to report, or one of its files is broken.
    """
    from rich.console import Console

    from videor2_rl.report.data import failures, read_report_data, report_numbers
    from videor2_rl.report.html import findings, render, terminal_tables
    from videor2_rl.report.plots import all_plots
    from videor2_rl.report.rollouts import shown_samples
    from videor2_rl.run.files import write_json_atomic, write_text_atomic

    data = read_report_data(folder)
    samples, selection = shown_samples(data)
    page = folder / "report.html"
    write_text_atomic(page, render(data, plots=all_plots(data), samples=samples, selection=selection))
    write_json_atomic(folder / "report.json", report_numbers(data))

    console = Console()
    for table in terminal_tables(data):
        console.print(table)
    for sentence in (*failures(data), *findings(data), *data.missing):
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    console.print(f"Report: {page}", soft_wrap=True, markup=False, highlight=False)
    return page


def print_comparison(folder: Path, other: Path, *, json_file: Path | None) -> None:
    """Print B against A, and write it as JSON where asked for.

    Raises:
        ConfigError: one of the folders holds no evaluation, or they share no sample.
    """
    from videor2_rl.report.compare import as_json, as_markdown, compare, read_scores
    from videor2_rl.run.files import write_json_atomic

    a, b = read_scores(folder), read_scores(other)
    comparison = compare(a, b)
    if json_file is not None:
        write_json_atomic(json_file, as_json(comparison))
    print(as_markdown(comparison, a, b), end="")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m videor2_rl.report",
        description="Write report.html and report.json for a demo folder (base/ sft/ grpo/ evaluation/ timing.json) "
        "or a single run's folder (metrics.jsonl). With a second folder: compare two evaluations, each a folder with "
        "summary.json, as a Markdown page on stdout.",
    )
    parser.add_argument("folder", type=Path, help="the demo's or the run's folder; the report is written into it")
    parser.add_argument("other", type=Path, nargs="?", help="compare the evaluation in FOLDER (A) with this one (B)")
    parser.add_argument("--json", type=Path, help="write the comparison into this file too")
    arguments = parser.parse_args()
    if arguments.json is not None and arguments.other is None:
        parser.error("--json belongs to a comparison of two folders")
    try:
        if arguments.other is None:
            write_report(arguments.folder)
        else:
            print_comparison(arguments.folder, arguments.other, json_file=arguments.json)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
