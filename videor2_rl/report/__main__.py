"""Reports and comparisons, by what the folders hold.

python -m videor2_rl.report FOLDER           a demo, a run, an evaluation or `evaluate logs=`: report.html, report.json
python -m videor2_rl.report SWEEP            a folder of runs: comparison.html, .md and .json
python -m videor2_rl.report A B              two evaluations: what differs in their cards, and their paired scores
python -m videor2_rl.report A B C ...        several runs, or several evaluations, against the first
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from videor2_rl.config.command_line import Parser
from videor2_rl.config.errors import ConfigError


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write a folder's page and numbers, into it or into `out`, and print its tables; returns the page.

    Raises:
        ConfigError: the folder holds nothing to report, or one of its files is broken.
    """
    from rich.console import Console

    from videor2_rl.report.evaluations import write_evaluation_report
    from videor2_rl.report.folders import kind_of, members_of
    from videor2_rl.report.logs import write_log_report
    from videor2_rl.report.run_report import write_run_report

    console = Console()
    kind = kind_of(folder)
    out = out or folder
    if kind == "sweep":
        from videor2_rl.report.sweep import compare_runs

        page = compare_runs(members_of(folder), out=out, console=console)
        assert page is not None, "a page is written where there is a folder for it"
    else:
        writers = {
            "logs": write_log_report,
            "evaluations": write_evaluation_report,
            "run": write_run_report,
            "demo": write_run_report,
        }
        page = writers[kind](folder, out, console)
    console.print(f"Report: {page}", soft_wrap=True, markup=False, highlight=False)
    return page


def print_comparison(folders: Sequence[Path], *, out: Path | None, json_file: Path | None) -> None:
    """Print several folders against the first: two evaluations as Markdown, anything else as a table.

    Raises:
        ConfigError: the folders are not of one kind, or share no sample.
    """
    from rich.console import Console

    from videor2_rl.evaluation.summary import SUMMARY_FILE
    from videor2_rl.report.compare import as_json, as_markdown, compare, read_scores
    from videor2_rl.report.sweep import compare_runs
    from videor2_rl.run.files import write_json_atomic

    are_evaluations = all((folder / SUMMARY_FILE).exists() for folder in folders)
    if len(folders) != 2 or out is not None or not are_evaluations:
        page = compare_runs(folders, out=out, console=Console(), json_file=json_file)
        if page is not None:
            print(f"Report: {page}")
        return
    a, b = read_scores(folders[0]), read_scores(folders[1])
    comparison = compare(a, b)
    if json_file is not None:
        write_json_atomic(json_file, as_json(comparison))
    print(as_markdown(comparison, a, b), end="")


def main() -> None:
    """The command line."""
    parser = Parser(
        prog="python -m videor2_rl.report",
        description="Write report.html and report.json for a demo folder (base/ sft/ grpo/ evaluation/ timing.json), a "
        "training run (metrics.jsonl), an evaluation (summary.json, samples.jsonl, or a folder of them) or what "
        "evaluate logs= wrote; comparison.html, .md and .json for a sweep (a folder of runs). Two evaluations are "
        "compared as a Markdown page on stdout; several runs, or more evaluations, as a table against the first.",
    )
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="+", help="one folder, or those to compare")
    parser.add_argument("-o", "--output", type=Path, help="folder to write into; without it FOLDER, or nothing")
    parser.add_argument("--json", type=Path, help="write the comparison into this file too")
    arguments = parser.parse_args()
    if arguments.json is not None and len(arguments.folders) == 1:
        parser.error("--json belongs to a comparison of several folders")
    try:
        if len(arguments.folders) == 1:
            write_report(arguments.folders[0], arguments.output)
        else:
            print_comparison(arguments.folders, out=arguments.output, json_file=arguments.json)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error}; where a folder cannot be written, name another with -o", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
