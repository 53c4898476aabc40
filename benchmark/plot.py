"""Draws the paper's figures from finished runs, each beside the paper's numbers, and prints its tables.

    python benchmark/plot.py --scale mini                   # every figure and table whose runs are there
    python benchmark/plot.py figure_08 table_3 --scale mini --videos unseen_videos
    python benchmark/plot.py --scale demo --runs 'runs/*'   # any folders with results.json and args.json
    python benchmark/plot.py --scale mini --html            # one page with everything, runs side by side
    python benchmark/plot.py --scale demo --html runs/*     # these runs side by side

A run belongs to a figure if its arguments are those of benchmark/run.py at this scale, wherever it lies and
whatever its folder is called (which trajectories it was given is not compared). A figure one of whose methods
has not run is skipped, and the command that runs it is printed; means are over the tasks and seeds with which
all have run. A variant that benchmark/run.py has run stands beside the methods, under its own name. Writes
benchmark/pictures/<scale>_figure_08.png and so on, and the page, a single runs/benchmark/<scale>.html; prints
what all runs have measured, on seen and unseen videos, the verdict on each claim of the paper, and which
measure predicts the return.

Lines and bars are means over tasks, of means over seeds; dots are seeds; 95% intervals are bootstrapped over
seeds and episodes, with three seeds too narrow (stats.py). Scores are returns over the mean return on seen
videos of bc.py on all labels of the same task, with the same distractors, at this scale; over the paper's
Table 3 where a kind of data in the figure has no such run. Probe errors are MSE / Var(a), held out, at k = 1;
the paper's are MSEs of an online probe on raw actions, over 27, their variance in the mean of its tasks.
A claim is a ratio for each task and seed; it holds or fails where the 95% t interval of their logarithms lies
on one side of 0, and is undecided otherwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import run as benchmark
import tyro
from figures import DRAW, plt
from page import OVERVIEWS, TABLES, overviews, write_page
from run import ROOT, SCALES, Figure
from stats import Benchmark
from table import print_table


@dataclass
class Args:
    what: Annotated[tuple[str, ...], tyro.conf.Positional] = ("all",)
    """figures and tables: figure_01, figure_09 (a and bc), table_3, …, all"""
    scale: Literal[tuple(SCALES)] = "demo"
    """whose runs: an entry of SCALES in benchmark/run.py"""
    runs: tuple[str, ...] = ()
    """folders of runs, or quoted globs; the default are those of runs/benchmark/ and benchmark/results/"""
    videos: Literal["seen_videos", "unseen_videos"] = "seen_videos"
    """of the evaluation and of the probes; Figure 9a has unseen ones in any case"""
    partial: bool = False
    """draw a figure although it lacks some of its runs"""
    html: tuple[Path, ...] | None = None
    """write a page; the runs to show side by side, or none for one of each kind"""
    output: Path | None = None
    """folder of the pictures and of the page; the default are benchmark/pictures and runs/benchmark"""


def draw(bench: Benchmark, name: str, figure: Figure, partial: bool, path: Path) -> bool:
    """Draws a figure if enough of its runs are there, and says so."""
    make = f"python benchmark/run.py {name} --scale {bench.scale_name}"
    view = bench.only(figure)
    names = {run_name for run_name, _ in figure.runs} - set(bench.scale.variants)
    with_runs = {run_name for run_name, difficulty in figure.runs if bench.find(run_name, difficulty)}
    enough = bool(view.runs) and (partial or names <= with_runs)
    drawing = DRAW[name](view, name) if enough else None
    if drawing is None:
        print(f"{name}: not drawn, runs are missing; {make}")
        return False
    drawing.savefig(path)
    plt.close(drawing)
    missing = bench.missing(figure)
    print(f"{path} (without {missing}; {make})" if missing else path)
    return True


def main(args: Args):
    bench = Benchmark(args.scale, args.runs, args.videos)
    figures = benchmark.choose_figures(bench.scale, args.what)
    output = args.output or ROOT / "benchmark" / "pictures"
    output.mkdir(parents=True, exist_ok=True)
    drawn, tables = {}, {}
    for name, figure in figures.items():
        if name in DRAW:
            path = output / f"{args.scale}_{name}.png"
            if draw(bench, name, figure, args.partial, path):
                drawn[name] = path
            continue
        rows = TABLES[name](bench)
        if rows is None:
            print(f"{name}: nothing to show; python benchmark/run.py {name} --scale {args.scale}")
            continue
        tables[name] = rows
        print(f"\nTable {name[-1]}: {figure.about}, {args.scale} scale")
        print_table(rows)

    if bench.runs and args.what == ("all",):
        for title, rows in overviews(bench).items():
            print(f"\n{title}, {args.scale} scale: {OVERVIEWS[title]}")
            print_table(rows)
    if args.html is not None:
        folder = args.output or ROOT / "runs" / "benchmark"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{args.scale}.html"
        write_page(bench, drawn, tables, args.html, path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:
        raise SystemExit(f"error: {str(error) or 'interrupted'}")
