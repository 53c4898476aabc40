"""Draws the curves of the trials that lie here: python benchmark/results/laom_rates/draw.py"""

import json
from pathlib import Path

import matplotlib.figure

FOLDER = Path(__file__).parent
PICTURE = FOLDER.parents[1] / "pictures" / "laom_rates.png"
KINDS = {  # beginnings of folders' names → titles
    "laom_noaug": "LAOM",
    "laom_aug": "LAOM, augmented",
    "sup_noaug": "LAOM+supervision",
    "sup_aug": "LAOM+supervision, augmented",
}
COLORS = {"1e-4": "#0072b2", "1e-4_24": "#56b4e9", "2e-4": "#009e73", "5e-4": "#e69f00", "1e-3": "#cc4411"}

figure = matplotlib.figure.Figure(figsize=(13, 6), layout="constrained")
axes = figure.subplots(2, 4, sharex="col", sharey="row")
for kind, title, (loss_axes, ratio_axes) in zip(KINDS, KINDS.values(), axes.T):
    for rate, color in COLORS.items():
        path = FOLDER / f"{kind}_{rate}" / "metrics.jsonl"
        if not path.exists():
            continue
        steps, losses, ratios = [], [], []
        for line in path.read_text().splitlines():
            record = json.loads(line)
            stage = record["stage"]
            name = "consistency_loss" if kind.startswith("sup") else "loss"
            loss = record[f"{stage}/{name}"]
            steps.append(record["step"])
            losses.append(loss)
            ratios.append(loss / record[f"{stage}/embedding_variance"])
        label = rate.replace("_24", ", 24 passes")
        loss_axes.plot(steps, losses, color=color, label=label, linewidth=1)
        ratio_axes.plot(steps, ratios, color=color, linewidth=1)
    loss_axes.set(title=title, yscale="log")
    ratio_axes.set(xlabel="update", yscale="log")
    loss_axes.legend(fontsize=8, loc="upper right")
axes[0, 0].set_ylabel("MSE of the predicted embedding")
axes[1, 0].set_ylabel("the same over the embedding's variance")
figure.savefig(PICTURE, dpi=100)
print(PICTURE)
