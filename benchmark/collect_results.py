"""Fills benchmark/results/<scale>/ from finished runs, and writes the scale's CSV.

    python benchmark/collect_results.py runs/benchmark/mini

Of each finished run it keeps two small files in <scale>/<task>/<name>[__vanilla]/seed<n>/: args.json, and
results.json with what measure.py has written beside the weights and the end of the training curves. Of
several runs of one kind it keeps the newest. The CSV has a row for each number of the table (tidy.py).
"""

import json
import re
import shutil
from pathlib import Path
from typing import Annotated

import tyro
from commands import ROOT
from table import write_csv
from tidy import find_folders, is_finished, read_json, read_results, read_rows


def keep(run: Path, target: Path):
    """Copies what is small of a run."""
    args = read_json(run / "args.json")
    results = read_results(run, args)
    folder = target / results["task"] / run.parent.name / f"seed{results['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "args.json", folder)
    text = json.dumps(results, indent=2)
    text = re.sub(
        r"\[\s+([^][{}]*?)\s+]", lambda found: f"[{' '.join(found[1].split())}]", text
    )  # one line a list
    (folder / "results.json").write_text(text + "\n")


def main(runs: Annotated[Path, tyro.conf.Positional], output: Path = ROOT / "benchmark" / "results"):
    """runs: the folder of a scale's runs, <name>/<run>; its name is the scale's."""
    finished = [folder for folder in find_folders([f"{runs}/*/*"]) if is_finished(folder)]
    if not finished:
        raise SystemExit(f"error: no finished run in {runs}/*/*")
    for folder in sorted(finished, key=lambda folder: (folder / "results.json").stat().st_mtime):
        keep(folder, output / runs.resolve().name)
    scale = output / runs.resolve().name
    kept = find_folders([f"{scale}/*/*/*"])
    print(f"{scale}: {len(kept)} runs")
    write_csv([row for folder in kept for row in read_rows(folder)], scale.with_suffix(".csv"))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
