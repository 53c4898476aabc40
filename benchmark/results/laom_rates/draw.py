"""Draws the curves of the trials that lie here: python benchmark/results/laom_rates/draw.py"""

import json
from pathlib import Path

import matplotlib.figure

FOLDER = Path(__file__).parent
PICTURE = FOLDER.parents[1] / "pictures" / "laom_rates.png"

figure = matplotlib.figure.Figure(figsize=(11, 4), layout="constrained")
loss_axes, ratio_axes = figure.subplots(1, 2)
for path in sorted(FOLDER.glob("*/metrics.jsonl")):
    if path.parent.name.startswith("lapo"):  # its loss is of pixels
        continue
    steps, losses, ratios = [], [], []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        stage = record["stage"]
        loss = record.get(f"{stage}/consistency_loss", record[f"{stage}/loss"])
        steps.append(record["step"])
        losses.append(loss)
        ratios.append(loss / record[f"{stage}/embedding_variance"])
    loss_axes.plot(steps, losses, label=path.parent.name)
    ratio_axes.plot(steps, ratios)
loss_axes.set(xlabel="update", ylabel="MSE of the predicted embedding", yscale="log")
ratio_axes.set(xlabel="update", ylabel="the same over the embedding's variance", yscale="log")
loss_axes.legend(fontsize=8)
figure.savefig(PICTURE, dpi=110)
print(PICTURE)
