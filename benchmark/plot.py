"""Draws the paper's figures from finished runs, each beside the paper's numbers, and prints its tables.

    python benchmark/plot.py --scale mini                   # every figure and table whose runs are there
    python benchmark/plot.py figure_08 table_3 --scale mini --videos unseen_videos
    python benchmark/plot.py --scale demo --runs 'runs/*'   # runs of any folders
    python benchmark/plot.py --scale mini --like laom_cosine=laom    # a variant beside the methods

It takes the runs of runs/benchmark/<scale>/, or where there are none, those of benchmark/results/<scale>/:
they are of other data, so the two are not mixed. What a run is follows from its folder's name, else from its
script's. A variant stands behind the method that --like names; if it has no run of the scale, those in runs/
count. Lines say which arguments differ from that method's, or from another seed's. A figure one of whose
methods has not run is skipped; means are over the tasks and seeds with which all have run. With all figures
it also prints the verdict on each claim of the paper.

benchmark/README.md says what is drawn (Figures) and what makes a claim hold or fail (Verdicts). Cells are
geometric means of ratios with 95% t intervals of the logarithms; of a share (R²) the ratio is of what is
unexplained, 1 - R².
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import commands
import numpy as np
import tyro
from commands import ALL_TASKS, CLEAN, DISTRACTORS, METHODS, ROOT, SCALES, Figure, list_figures
from figures import DRAW, plt
from results import VIDEOS, find_folders, is_finished, read_json
from stats import CLAIMS, MEASURES, PAPER_BC, Claim, Comparison, Table, by_task, compare, seeds_of, show
from table import Rows, print_rows

# ---- Table 3 and verdicts --------------------------------------------------------------------


def table_3(table: Table) -> Rows:
    """BC on all labels."""
    rows = [["task", "with distractors", "without", "paper: with", "paper: without"]]
    for task in ALL_TASKS:
        cells = []
        for difficulty in (DISTRACTORS, CLEAN):
            returns = table.get("bc", difficulty, "return_mean", table.videos, "all")
            means = [value for (other, _), value in returns.items() if other == task]
            seeds = ", ".join(f"{mean:.1f}" for mean in means)
            cells.append(f"{np.mean(means):.1f} (seeds: {seeds})" if means else "–")
        if set(cells) != {"–"}:
            rows.append([task, *cells, str(PAPER_BC[task][DISTRACTORS]), str(PAPER_BC[task][CLEAN])])
    return rows


def claim_rows(table: Table, videos: str) -> Rows:
    """Each claim by each of its measures and with each label budget, where its runs are there."""
    tasks = [task for task in ALL_TASKS if any(row.task == task for row in table.rows)]
    rows = [["the paper's claim", "ratio of", "holds if", "labelled", "seeds", *tasks]]
    if len(tasks) > 1:
        rows[0] += ["mean of the tasks, over seeds", "all pairs"]
    rows[0] += ["verdict", "on each task alone", "paper"]
    for claim in CLAIMS:
        for measure in claim.measures:
            found = {}  # cells → label budgets: what was learned without labels is the same for all
            for budget in table.budgets or [""]:  # stage 1 alone has none
                comparison = compare(table, claim.runs(table.scale), measure, videos, budget)
                cells = claim_cells(claim, measure, comparison, tasks)
                if comparison.log_ratios or comparison.left_out:
                    found.setdefault(tuple(cells), []).append(str(budget))
            for (seeds, *cells), budgets in found.items():
                labelled = ", ".join(budgets) or "–"
                paper = claim.paper if measure == claim.of_paper else "–"
                direction = claim.direction(measure)
                about = [claim.text, ratio_in_words(table, claim, measure), direction, labelled, seeds]
                rows.append([*about, *cells, paper])
    return rows


def ratio_in_words(table: Table, claim: Claim, measure: str) -> str:
    ratio = claim.ratio.replace(f"__{CLEAN}", " without distractors")
    ratio = ratio.replace("_small", f"_{min(table.scale.smaller_dims)}")
    return f"{MEASURES[measure].about}: {ratio}"


def claim_cells(claim: Claim, measure: str, comparison: Comparison, tasks: list[str]) -> list[str]:
    """Seeds, the ratio on each task, over seeds and over pairs, and the verdicts."""
    direction = claim.direction(measure)
    cells = [str(comparison)]
    if len(tasks) > 1:
        cells = [*(show(comparison.of_task(task)) for task in tasks), *cells, show(comparison.of_pairs())]
    cells += [comparison.verdict(direction), comparison.verdicts_alone(direction)]
    return [seeds_of([comparison]), *cells]


# ---- Main --------------------------------------------------------------------------------------------------


@dataclass
class Args:
    what: Annotated[tuple[str, ...], tyro.conf.Positional] = ("all",)
    """figures and tables: figure_01, figure_09 (a and bc), table_3, …, all"""
    scale: Literal[tuple(SCALES)] = "demo"  # whose runs: an entry of SCALES in benchmark/commands.py
    runs: tuple[str, ...] = ()
    """folders of runs, or quoted patterns, instead of runs/benchmark/<scale> or benchmark/results/<scale>"""
    like: tuple[str, ...] = ()  # variants and the methods they are like: laom_cosine=laom
    videos: Literal[VIDEOS] = "seen_videos"  # of returns and probes; Figure 9a has unseen ones in any case
    partial: bool = False  # draw a figure although it lacks some of its runs
    output: Path = ROOT / "benchmark" / "pictures"  # folder of the pictures


def load_table(args: Args) -> Table:
    """The finished runs of the scale on the paper's tasks."""
    variants = {}
    for pair in args.like:
        variant, _, method = pair.partition("=")
        if method not in METHODS:
            raise SystemExit(f"error: --like {pair}: give VARIANT=METHOD, one of {', '.join(METHODS)}")
        variants[variant] = method
    scale = dataclasses.replace(SCALES[args.scale])
    known = [*commands.list_runs(scale, scale.tasks[0]), *variants]
    scale.variants = variants

    folders = find_folders(args.runs)
    if args.runs and not folders:
        raise SystemExit(f"error: no results.json in {', '.join(args.runs)}")
    if not args.runs:  # one's own, else the committed ones: they are of other data
        folders = find_folders([f"{ROOT}/runs/benchmark/{args.scale}/*/*"])
        folders = folders or find_folders([f"{ROOT}/benchmark/results/{args.scale}/*/*/*"])
        for variant in {*variants} - {folder.parent.name for folder in folders}:
            folders += find_folders([f"{ROOT}/runs/*__{variant}__*"])
    finished = [folder for folder in folders if is_finished(folder)]
    table = Table(finished, args.scale, scale, known, args.videos)
    for variant, method in variants.items():
        folders, of_method = table.find(variant), table.find(method)
        print(f"{variant}: {len(folders)} runs with distractors")
        for key in folders.keys() & of_method.keys():
            print_differences(folders[key], of_method[key])
    for name, difficulty in table.index:
        for of_task in by_task(table.find(name, difficulty)).values():
            first, *others = of_task.values()
            for other in others:
                print_differences(other, first)
    return table.narrowed(lambda row: row.task in ALL_TASKS)


def print_differences(folder: Path, other: Path):
    """Where the arguments of a run's stages are not those of another run."""
    own, others = [read_json(path / "args.json") for path in (folder, other)]
    for stage in ("lam", "idm", "bc", "decoder"):
        for name, value in others.get(stage, {}).items():
            its = own.get(stage, {}).get(name)
            if its != value:
                print(f"{folder}: {stage}.{name} is {its}, and {value} in {other}")


def draw(table: Table, name: str, figure: Figure, args: Args) -> None:
    """Draws a figure if enough of its runs are there, and says so."""
    make = f"python benchmark/commands.py {name} --scale {args.scale}"
    view = table.only(figure)
    names = {run_name for run_name, _ in figure.runs} - set(table.scale.variants)
    with_runs = {run_name for run_name, difficulty in figure.runs if table.find(run_name, difficulty)}
    enough = bool(view.rows) and (args.partial or names <= with_runs)
    drawing = DRAW[name](view, name, figure) if enough else None
    if drawing is None:
        print(f"{name}: not drawn, runs are missing; {make}")
        return
    path = args.output / f"{args.scale}_{name}.png"
    drawing.savefig(path)
    plt.close(drawing)
    missing = table.missing(figure)
    print(f"{path} (without {missing}; {make})" if missing else path)


def main(args: Args):
    table = load_table(args)
    figures = commands.choose_figures(list_figures(table.scale), args.what)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        if name in DRAW:
            draw(table, name, figure, args)
    if "table_3" in figures:
        print(f"\nTable 3: {figures['table_3'].about}, {args.scale} scale")
        print_rows(table_3(table))
    if args.what != ("all",):
        return
    for videos in VIDEOS:
        rows = claim_rows(table, videos)
        if len(rows) > 1:
            print(f"\nThe paper's claims, {args.scale} scale, {videos.replace('_', ' ')}")
            print_rows(rows)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
