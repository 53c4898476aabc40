"""laom.py and bc.py: the paper's networks and presets, and their pipelines with a restart."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, run
from test_laom_supervised import Recorder, count

import bc
import laom

TINY_BC = ["demo", "--num-labeled-trajectories", "all", "2", "--log-interval", "5", "--eval.num-episodes", "1"]
TINY_BC += ["--bc.num-epochs", "2", "--bc.num-updates", "20", "--bc.batch-size", "128"]


def tiny_laom() -> list[str]:
    """The small sizes of the tests, without labels in stage 1, for two budgets."""
    pairs = {"--lam.latent-action-dim": 16, "--lam.act-head-dim": 32, "--lam.obs-head-dim": 32, "--lam.num-epochs": 1}
    pairs |= {"--lam.batch-size": 128, "--bc.batch-size": 128, "--bc.num-epochs": 1, "--decoder.num-updates": 20}
    pairs |= {"--decoder.batch-size": 64, "--eval.num-episodes": 1, "--log-interval": 5}
    return ["demo", "--num-labeled-trajectories", "1", "3", *(str(word) for pair in pairs.items() for word in pair)]


def test_parameter_totals_of_table_4():
    with torch.device("meta"):
        assert count(laom.LAM(laom.Args().lam, 3)) == 192_307_136
        assert count(laom.Actor(laom.Args().bc, 3, 8192)) == 107_541_504
        assert count(bc.Actor(bc.Args().bc, 3, 21)) == 99_166_229


def test_paper_presets():
    lam = dataclasses.asdict(laom.PRESETS["paper"][1].lam)
    assert lam == {  # Table 6
        **{"use_aug": True, "batch_size": 512, "num_epochs": 10, "target_tau": 0.001, "act_head_dim": 1024, "obs_head_dim": 1024},
        **{"encoder_scale": 6, "learning_rate": 1e-4, "warmup_epochs": 3, "future_obs_offset": 10, "latent_action_dim": 8192},
        **{"target_update_every": 1, "encoder_num_res_blocks": 2, "target": "ema"},
    }
    assert dataclasses.asdict(bc.PRESETS["paper"][1].bc) == {  # Tables 9 and 10
        **{"num_epochs": 10, "num_updates": 10_000, "batch_size": 512, "learning_rate": 1e-4, "warmup_epochs": 0},
        **{"encoder_scale": 32, "encoder_num_res_blocks": 2},
    }


def test_laom_learns_without_actions(train_file):
    """True actions reach the probes alone: with other actions in the file the LAM is the same, bit for bit."""
    args = dataclasses.replace(laom.parse_args([*tiny_laom(), "--data", str(train_file)]), device="cpu", precision="fp32")
    data, other = laom.Dataset(args.data, "cpu"), laom.Dataset(args.data, "cpu")
    other.actions, other.states = -other.actions, other.states + 1
    ends = []
    for source in (data, other):
        recorder = Recorder(3)
        laom.train_lam(args, source, "lam", recorder)
        ends.append(recorder.history)
    assert all(torch.equal(value, ends[1][-1]["lam"][name]) for name, value in ends[0][-1]["lam"].items())
    assert not torch.equal(ends[0][-1]["probes"]["action_probe.weight"], ends[1][-1]["probes"]["action_probe.weight"])
    assert not torch.equal(ends[0][0]["lam"]["encoder.0.weight"], ends[0][-1]["lam"]["encoder.0.weight"])


def test_bc_learns_the_actions_of_its_trajectories(train_file):
    """A few dozen updates on one trajectory beat its mean action there."""
    args = dataclasses.replace(bc.parse_args([*TINY_BC, "--data", str(train_file)]), device="cpu", precision="fp32")
    args.bc.learning_rate, data = 3e-3, bc.Dataset(args.data, "cpu")
    index = data.transitions(data.shuffle[:1])
    actor = bc.train_actor(args, data, index, 120, "bc_1", Recorder(120))
    prediction = bc.infer_all(args, actor, data, index, bc.OBS)
    mse = torch.nn.functional.mse_loss(prediction, data.actions[index])
    assert mse < 0.9 * data.actions[index].var(0, unbiased=False).mean()


@pytest.mark.parametrize("script,flags,budgets", [("laom.py", tiny_laom(), ["1", "3"]), ("bc.py", TINY_BC, ["all", "2"])])
def test_pipeline_stopped_and_resumed(script, flags, budgets, train_file, tmp_path):
    """SIGTERM in the first stage: a checkpoint and a line that says how to go on; then the whole pipeline."""
    command = [sys.executable, ROOT / script, *flags, "--data", train_file, "--runs", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        time.sleep(0.02)
        if any("step" in path.read_text() for path in tmp_path.glob("*/metrics.jsonl")):
            break
    process.send_signal(signal.SIGTERM)
    assert "stopped; continue with" in process.communicate()[1] and process.returncode != 0
    folder = next(tmp_path.iterdir())
    result = run(script, "--resume", folder)
    assert result.returncode == 0, result.stderr
    results = json.loads((folder / "results.json").read_text())
    assert list(results["budgets"]) == budgets
    for budget in results["budgets"].values():
        for videos in ("seen_videos", "unseen_videos"):
            assert budget[videos]["return_mean"] == pytest.approx(np.mean(budget[videos]["returns"]))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for stage in {record["stage"] for record in records if "step" in record}:
        steps = [record["step"] for record in records if record["stage"] == stage]
        assert steps == sorted(set(steps)), stage
    weights = {path.name for path in folder.glob("*.pt")}
    if script == "laom.py":
        assert {"lam.pt", "actor.pt", "decoder_1.pt", "decoder_3.pt"} <= weights
        assert 0 < results["probes"]["action_probe_mse_over_var/seen_videos"] < 2
    else:
        assert {"actor_all.pt", "actor_2.pt"} <= weights
        assert 0 < results["budgets"]["all"]["action_mse_over_var"] < 2
