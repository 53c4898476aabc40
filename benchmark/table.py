"""Prints runs side by side, one row for each label budget, as a table in Markdown.

    python benchmark/table.py runs/*                       # runs of any scripts, on any data
    python benchmark/table.py benchmark/results/demo_*     # what the README shows

z → action is the held-out probe's MSE / Var(a) (benchmark/measure.py), labelled → action the error of what was trained on labels
themselves: the LAM's action head, the IDM, or BC's actor, whose error on seen videos is not measured. Returns are mean ± standard
deviation over the evaluation's episodes, – where the run needed the latent actions alone and left the policy untrained. Each cell:
seen videos | unseen videos.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

HEADER = ["run", "seed", "labelled", "z → action", "labelled → action", "return", "score"]


def cell(measures: dict, name: str) -> str:
    values = [measures.get(f"{name}/{videos}") for videos in ("seen_videos", "unseen_videos")]
    return " | ".join("–" if value is None else f"{value:.3f}" for value in values) if any(values) else "–"


def policy_is_trained(folder: Path) -> bool:
    return json.loads((folder / "args.json").read_text())["bc"].get("num_epochs") != 0


def rows(folder: Path) -> list[list[str]]:
    results, table = json.loads((folder / "results.json").read_text()), []
    for number, budget in results["budgets"].items():
        measures = results.get("latent_actions", {}) | budget.get("latent_actions", {}) | budget.get("idm", {})
        measures |= {"actor_mse_over_var/unseen_videos": budget.get("action_mse_over_var")}
        kinds = [cell(measures, f"{kind}_mse_over_var") for kind in ("action_head", "idm", "actor")]
        seen, unseen = budget["seen_videos"], budget["unseen_videos"]
        returns = " | ".join(f"{videos['return_mean']:.1f} ± {videos['return_std']:.1f}" for videos in (seen, unseen))
        scores = " | ".join(f"{videos['normalized_score']:.3f}" for videos in (seen, unseen))
        table.append([
            f"{folder.name} ({results['script']})", str(results["seed"]), number, cell(measures, "action_probe_mse_over_var"),
            next((kind for kind in kinds if kind != "–"), "–"),
            *((returns, scores) if policy_is_trained(folder) else ("–", "–")),
        ])  # fmt: skip
    return table


def main(folders: Annotated[tuple[Path, ...], tyro.conf.Positional]):
    finished = [folder for folder in folders if (folder / "results.json").exists()]
    if len(finished) < len(folders):
        print(f"no results.json yet in: {', '.join(str(x) for x in folders if x not in finished)}", file=sys.stderr)
    table = [[word.replace(" | ", " \\| ") for word in row] for folder in finished for row in rows(folder)]
    for row in [HEADER, ["---"] * len(HEADER), *table]:
        print("| " + " | ".join(row) + " |")
    for folder in finished:
        results = json.loads((folder / "results.json").read_text())
        about = "{task}, {difficulty}: expert {dataset_return}, random {random_return}, score 1 is {reference_return}"
        print(f"\n{folder}/results.json: {about.format(**results)}", end="")
    print()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
