"""Prints runs side by side, one row for each label budget, as a table in Markdown; compares two methods.

    python benchmark/table.py runs/*                                     # runs of any scripts, on any data
    python benchmark/table.py benchmark/results/mini/*/*/* --mean        # means over seeds
    python benchmark/table.py runs/* --compare laom_cosine laom          # of several seeds and tasks
    python benchmark/table.py runs/* --measures effective_rank distractor_share
    python benchmark/table.py runs/* --csv runs.csv                      # a row for each number

Cells are seen | unseen videos, or the one number there is. A dash stands where nothing was measured, or where
a run left the policy untrained. Errors are MSE / Var(a) on held-out trajectories; docs/runs.md defines the
measures. labelled_error: of what learned from labels, the LAM's action head or the IDM. Returns are mean ±
standard deviation over the evaluation's episodes, with --mean over seeds.

--compare judges as plot.py does (benchmark/README.md, Verdicts). Returns in --eval.env-id stand in the
columns of both kinds of videos. A run's name is its script's, or that of its folder in the benchmark. --mean
leaves out what has one seed, and averages all runs of a name: give it runs of one setting. Of several runs of
one name, task and seed --compare takes the one with the most label budgets, of these the newest.
"""

import signal
import sys
from collections.abc import Iterable
from math import isnan, nan
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from commands import CLEAN, DISTRACTORS, SCALES, list_runs
from results import VIDEOS, Row, find_folders, is_finished, read_json, read_rows, write_csv
from stats import MEASURES, UNEXPLAINED, Table, compare, labels_of, seeds_of

COLUMNS = ("action_probe", "perturbation_r2", "plan_r2", "labelled_error", "policy_error", "return_mean")
KNOWN = {name for scale in SCALES.values() for name in list_runs(scale, "cheetah-run")}  # of folders
Rows = list[list[str]]  # the first one is the header


def number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None or isnan(value) else f"{value:{form}}"


def join(cells: Iterable[str]) -> str:
    cells = list(cells)
    return "–" if set(cells) <= {"–"} else " | ".join(cells)


def print_rows(rows: Rows):
    """Rows of text as Markdown."""
    for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]:
        print("| " + " | ".join(cell.replace(" | ", " \\| ") for cell in row) + " |")


def distractors(difficulty: str | None) -> str:
    return {DISTRACTORS: "yes", CLEAN: "no", None: "–"}.get(difficulty, difficulty)


# ---- Runs side by side -------------------------------------------------------------------------------------


def side_by_side(rows: list[Row], columns: tuple[str, ...], over_seeds: bool) -> Rows:
    """A row for each run and label budget, or for each that several seeds have."""
    groups = {}  # (run, task, difficulty, budget) and the folder or nothing → (measure, videos) → rows
    for row in rows:
        key = (row.run, row.task, row.difficulty, row.budget, None if over_seeds else row.folder)
        groups.setdefault(key, {}).setdefault((row.measure, row.videos), []).append(row)
    table = [["run", "task", "distractors", "seed", "labelled", *columns]]
    for (run, task, difficulty, budget, _), measures in groups.items():
        seeds = dict.fromkeys(row.seed for of_measure in measures.values() for row in of_measure)
        if over_seeds and len(seeds) == 1:
            continue
        cells = [cell(measures, column, len(seeds)) for column in columns]
        seeds = ", ".join(map(str, seeds))
        if set(cells) != {"–"}:
            table.append([run, task, distractors(difficulty), seeds, budget or "–", *cells])
    return table


def cell(measures: dict, column: str, num_seeds: int) -> str:
    """Seen | unseen videos, or whatever there is."""
    kinds = [videos for measure, videos in measures if measure == column]
    shown = []
    for videos in VIDEOS if set(kinds) & set(VIDEOS) and column != "policy_error" else kinds:
        values = [row.value for row in measures.get((column, videos), ())]
        if len(values) < num_seeds or isinstance(values[0], list):
            shown.append("–")
        elif column == "return_mean":
            spread = np.std(values, ddof=1) if num_seeds > 1 else None
            if spread is None:
                (row,) = measures["return_std", videos]
                spread = row.value
            shown.append(f"{np.mean(values):.1f} ± {spread:.1f}")
        else:
            shown.append(number(np.mean(values)))
    return join(shown)


def about(folder: Path) -> str:
    """What the returns of a run compare with, as far as it is known."""
    results = read_json(folder / "results.json")
    numbers = [number(results.get(f"{name}_return"), "g") for name in ("dataset", "random", "reference")]
    return f"{folder}: the data return {numbers[0]}, random {numbers[1]}, score 1 is {numbers[2]}"


# ---- A comparison ------------------------------------------------------------------------------------------


def comparison_rows(table: Table, one: str, other: str) -> Rows:
    """The ratio of one to the other by each measure that both have."""
    rows = [["ratio", "distractors", "labelled", "task: seeds", f"mean of {one}", f"mean of {other}"]]
    rows[0] += [f"{one} / {other}, seen videos", "unseen videos", "better"]
    both = [row for row in table.rows if row.run in (one, other)]
    difficulties = dict.fromkeys(row.difficulty for row in both)
    budgets = {row.budget: labels_of(row) for row in both if row.budget} or {"": -1}
    for difficulty in difficulties:
        for budget in sorted(budgets, key=budgets.get):
            for measure in MEASURES:
                rows += comparison_row(table, [(one, difficulty), (other, difficulty)], measure, budget)
    return rows


def comparison_row(table: Table, runs: list[tuple[str, str]], measure: str, budget: str) -> Rows:
    """One row, or none if no task and seed has both."""
    comparisons = [compare(table, runs, measure, videos, budget) for videos in VIDEOS]
    seeds = seeds_of(comparisons)
    if not seeds:
        return []
    pairs = sorted({key for found in comparisons for key in (*found.log_ratios, *found.left_out)})
    means = []
    for run in runs:
        cells = []
        for videos in VIDEOS:
            values = table.get(*run, measure, videos, budget)
            mean = np.mean([values[key] for key in pairs if key in values] or [nan])
            cells.append(number(1 - mean if measure in UNEXPLAINED else mean))
        means.append(join(dict.fromkeys(cells)))
    about = f"1 - {measure}" if measure in UNEXPLAINED else measure
    wanted = "below 1" if MEASURES[measure].better == "low" or measure in UNEXPLAINED else "above 1"
    answers = {"holds": "yes", "fails": "no", "undecided": "undecided"}
    verdicts = dict.fromkeys(answers[found.verdict(wanted)] for found in comparisons)
    means_and_ratios = [*means, *map(str, comparisons), join(verdicts)]
    return [[about, distractors(runs[0][1]), budget or "–", seeds, *means_and_ratios]]


# ---- Main --------------------------------------------------------------------------------------------------


def main(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    measures: tuple[str, ...] = COLUMNS,
    mean: bool = False,
    compare: tuple[str, str] | None = None,
    csv: Path | None = None,
):
    """runs: their folders."""
    folders = find_folders(runs)
    unfinished = [str(folder) for folder in runs if folder not in folders]
    if unfinished:
        print(f"no results.json yet in: {', '.join(unfinished)}", file=sys.stderr)
    if compare:
        folders = [folder for folder in folders if is_finished(folder)]
        table = Table(folders, "demo", SCALES["demo"], [*KNOWN, *compare], "seen_videos")
        for name in compare:
            if name not in {row.run for row in table.rows}:
                names = ", ".join(sorted({row.run for row in table.rows}))
                raise SystemExit(f"error: --compare {name}: there are {names}")
        print_rows(comparison_rows(table, *compare))
        return
    rows = [row for folder in folders for row in read_rows(folder, KNOWN)]
    if csv:
        write_csv(rows, csv)
        return
    unknown = {*measures} - {row.measure for row in rows}
    if unknown and measures != COLUMNS:
        names = ", ".join(sorted({row.measure for row in rows}))
        raise SystemExit(f"error: --measures {' '.join(unknown)}: there are {names}")
    print_rows(side_by_side(rows, measures, mean))
    print()
    if not mean:
        print("\n".join(map(about, folders)))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # behind `| head` it ends without a word
    tyro.cli(main, description=__doc__)
