"""Finished runs as one tidy table, and the small files of them that benchmark/results/ keeps.

    python benchmark/results.py runs/benchmark/mini         # fills benchmark/results/mini/ and mini.csv

The table has a row for each run, label budget, measure and kind of videos. Statistics, tables, figures and
CSV files all read it. A run is a folder with args.json and results.json; what measure.py has written beside
its weights joins in, and so does the end of its training curves. Errors are MSE / Var(a).

As a command it keeps two files of each finished run in <scale>/<task>/<name>[__vanilla]/seed<n>/: args.json,
and results.json with all of that. Of several runs of one kind it keeps the newest of those with the most
label budgets.
"""

import csv
import glob
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from commands import CLEAN, ROOT

RESULTS = ROOT / "benchmark" / "results"
VIDEOS = ("seen_videos", "unseen_videos")
SHORT_NAMES = {  # in results.json → in the table
    "action_probe_mse_over_var": "action_probe",
    "blind_probe_mse_over_var": "blind_probe",
    "action_head_mse_over_var": "labelled_error",  # of what was trained on labels: of a LAM, an IDM
    "idm_mse_over_var": "labelled_error",
    "policy_mse_over_var": "policy_error",  # on the evaluation file
}
LEARNED_FROM_LABELS = ("action_head", "idm")
OF_THE_POLICY = ("policy", "return", "normalized_score")
ONLINE = {  # what training logs of each batch: stage, metric → in the table, the mean of its last five values
    ("lam", "action_probe_mse"): "online_action_probe_mse",
    ("lam", "obs_action_probe_mse"): "online_obs_action_probe_mse",
    ("actor", "loss"): "actor_loss",  # of z: over its variance
}


class Row(NamedTuple):
    run: str  # its name in the benchmark, or its script's
    task: str
    difficulty: str | None
    seed: int
    budget: str  # labelled trajectories: a number or all; empty where a number is of the whole run
    measure: str
    videos: str  # seen_videos, unseen_videos, no_distractors, environment, or empty
    value: float | list  # list: the returns of the episodes
    folder: Path


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {path} is not whole: {error}")


def read_results(folder: Path, args: dict) -> dict:
    """results.json, and in each budget what measure.py and, of a LAM, metrics.jsonl add."""
    results = read_json(folder / "results.json")
    for name in ("script", "task", "seed", "budgets"):
        if name not in results:
            raise SystemExit(f"error: {folder}/results.json is not whole: it has no {name}")
    for budget, measures in results["budgets"].items():
        added = read_online(folder, budget) if "lam" in args else {}
        for name in ("lam", f"lam_{budget}", f"idm_{budget}"):
            if (folder / f"{name}.json").exists():
                added |= read_json(folder / f"{name}.json")
        results["budgets"][budget] = added | measures
    return results


def read_online(folder: Path, budget: str) -> dict[str, float]:
    """The end of the training curves of stages for all budgets or for this one."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]  # a full disk may have cut one
    result = {}
    for (kind, metric), name in ONLINE.items():
        values = []
        for stage in (kind, f"{kind}_{budget}"):
            values += [record[f"{stage}/{metric}"] for record in records if f"{stage}/{metric}" in record]
        if values:
            result[name] = float(np.mean(values[-5:]))
    return result


def run_name(folder: Path, script: str, known: Iterable[str] = ()) -> str:
    """<name> of <name>/seed<n>, of <known name>/<run>, else the script's.

    __vanilla at the end does not belong to it.
    """
    folder = folder.resolve()
    parent = folder.parent.name.removesuffix(f"__{CLEAN}")
    if folder.name.startswith("seed") or parent in known:
        return parent
    return Path(script).stem


def read_rows(folder: Path, known: Iterable[str] = ()) -> Iterator[Row]:
    """The rows of a run."""
    args = read_json(folder / "args.json")
    results = read_results(folder, args)
    name = run_name(folder, results["script"], known)
    about = (name, results["task"], results.get("difficulty"), results["seed"])
    for measure in ("hours", "core_hours", "dataset_return", "random_return", "reference_return"):
        if results.get(measure) is not None:
            yield Row(*about, "", measure, "", results[measure], folder)
    if "lam" in args:
        yield Row(*about, "", "latent_action_dim", "", args["lam"]["latent_action_dim"], folder)

    has_policy = args["bc"]["num_epochs"] != 0
    for budget, measures in results["budgets"].items():
        # latent actions alone, learned without labels, are the same for all budgets
        has_budget = has_policy or any(key.startswith(LEARNED_FROM_LABELS) for key in measures)
        for key, value in measures.items():
            measure, _, videos = key.partition("/")
            measure = SHORT_NAMES.get(measure, measure)
            is_number = isinstance(value, int | float | list)
            if is_number and (has_policy or not measure.startswith(OF_THE_POLICY)):
                yield Row(*about, budget if has_budget else "", measure, videos, value, folder)
        if not has_budget:
            return


def find_folders(patterns: Iterable[str | Path]) -> list[Path]:
    """Folders with results.json, by paths or patterns."""
    folders = []
    for pattern in map(str, patterns):
        folders += [Path(pattern)] if Path(pattern).exists() else map(Path, sorted(glob.glob(pattern)))
    return [folder for folder in dict.fromkeys(folders) if (folder / "results.json").exists()]


def is_finished(folder: Path) -> bool:
    """Whether it has all of its label budgets, all evaluated in the same way."""
    wanted = set(map(str, read_json(folder / "args.json")["num_labeled_trajectories"]))
    budgets = read_json(folder / "results.json")["budgets"]
    evaluations = {json.dumps(measures.get("evaluation")) for measures in budgets.values()}
    finished = wanted <= set(budgets) and len(evaluations) < 2
    if not finished:
        print(f"{folder} has not finished")
    return finished


def age_of(folder: Path) -> tuple:
    """Sorts runs of one kind: by the number of label budgets, then by date."""
    path = folder / "results.json"
    results = read_json(path)
    return len(results.get("budgets", ())), results.get("date", ""), path.stat().st_mtime


def write_csv(rows: list[Row], path: Path):
    """The numbers of the table; lists, such as the returns of episodes, stand in results.json."""
    rows = [row for row in rows if not isinstance(row.value, list)]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields[:-1])
        for row in rows:
            writer.writerow([*row[:-2], f"{row.value:.6g}"])
    print(f"{path}: {len(rows)} rows")


def keep(run: Path, target: Path):
    """Copies what is small of a run."""
    args = read_json(run / "args.json")
    results = read_results(run, args)
    folder = target / results["task"] / run.parent.name / f"seed{results['seed']}"
    if (folder / "results.json").exists() and age_of(folder)[:2] > age_of(run)[:2]:
        print(f"{folder} stays: it has more label budgets than {run}, or is newer")
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "args.json", folder)
    text = json.dumps(results, indent=2)
    text = re.sub(r"\[\s+([^][{}]*?)\s+]", lambda found: f"[{' '.join(found[1].split())}]", text)  # one line
    (folder / "results.json").write_text(text + "\n")


def main(runs: Annotated[Path, tyro.conf.Positional], output: Path = RESULTS, add: bool = False):
    """runs: the folder of a scale's runs, <name>/<run>; its name is the scale's. add: to what is there."""
    scale = output / runs.resolve().name
    if scale.exists() and not add:
        raise SystemExit(f"error: {scale} exists: move it away, or --add if data and settings are the same")
    finished = [folder for folder in find_folders([f"{runs}/*/*"]) if is_finished(folder)]
    for folder in sorted(finished, key=age_of):
        keep(folder, scale)
    kept = find_folders([f"{scale}/*/*/*"])
    write_csv([row for folder in kept for row in read_rows(folder)], scale.with_suffix(".csv"))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
