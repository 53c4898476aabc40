"""lapo.py, laom.py, idm.py and bc.py: the paper's networks and presets, what each learns, and their pipelines with a restart."""

import ast
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, run
from test_laom_supervised import Recorder, count

import bc
import idm
import laom
import laom_supervised
import lapo

SMALL = {"--eval.num-episodes": 1, "--eval.num-workers": 1, "--log-interval": 5}
SMALL_LAM = {"--lam.latent-action-dim": 32, "--lam.num-epochs": 1, "--lam.batch-size": 128, "--bc.batch-size": 128}
SMALL_LAM |= {"--bc.num-epochs": 1, "--decoder.num-updates": 20, "--decoder.batch-size": 64}
SMALL_HEADS = {"--lam.act-head-dim": 32, "--lam.obs-head-dim": 32}
SETTINGS = {
    "lapo.py": SMALL | SMALL_LAM | {"--lam.quantizer": "vq"},
    "laom.py": SMALL | SMALL_LAM | SMALL_HEADS | {"--lam.quantizer": "fsq"},
    "laom_supervised.py": SMALL | SMALL_LAM | SMALL_HEADS | {"--lam.labeled-batch-size": 16},
    "idm.py": SMALL
    | {"--idm.num-updates": 20, "--idm.batch-size": 128, "--idm.act-head-dim": 32, "--bc.num-epochs": 1, "--bc.batch-size": 128},
    "bc.py": SMALL | {"--bc.num-epochs": 1, "--bc.num-updates": 20, "--bc.batch-size": 128},
}


def flags(script: str, *budgets, **changes) -> list[str]:
    settings = SETTINGS[script] | {f"--{name.replace('__', '.').replace('_', '-')}": value for name, value in changes.items()}
    words = (str(word) for pair in settings.items() for word in pair)
    return ["demo", "--num-labeled-trajectories", *map(str, budgets), *words]


@pytest.mark.parametrize(("avx512", "avx512_bf16", "onednn_takes_it", "dtype"), [
    (True, True, True, torch.bfloat16), (False, False, True, torch.bfloat16),  # the second as on ARM
    (True, False, True, torch.float32), (False, False, False, torch.float32),  # emulated, which is slower; not there
])  # fmt: skip
def test_bfloat16_on_cpus_that_have_it(avx512, avx512_bf16, onednn_takes_it, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn_takes_it)
    for method in (lapo, laom, laom_supervised, idm, bc):
        assert method.Args(device="cpu").dtype == dtype
        assert method.Args(device="cpu", precision="bf16").dtype == torch.bfloat16


def test_parameter_totals_of_table_4():
    with torch.device("meta"):
        assert count(lapo.LAM(lapo.Args().lam, 3)) == 211_847_849
        assert count(laom.LAM(laom.Args().lam, 3)) == 192_307_136
        assert count(idm.IDM(idm.Args().idm, 3, 21)) == 192_258_965
        for method in (lapo, laom):
            assert count(method.Actor(method.Args().bc, 3, 8192)) == 107_541_504
        for method in (idm, bc):
            assert count(method.Actor(method.Args().bc, 3, 21)) == 99_166_229


def test_paper_presets():
    common = {"batch_size": 512, "learning_rate": 1e-4, "encoder_num_res_blocks": 2, "checkpoint": None}
    stage_1 = {"num_epochs": 10, "encoder_scale": 6, "warmup_epochs": 3, "future_obs_offset": 10, "latent_action_dim": 8192}
    assert dataclasses.asdict(lapo.PRESETS["paper"][1].lam) == {  # Table 5
        **common,
        **stage_1,
        **{"quantizer": "none", "commitment_coef": 0.05},
    }
    assert dataclasses.asdict(laom.PRESETS["paper"][1].lam) == {  # Table 6
        **common,
        **stage_1,
        **{"use_aug": True, "target_tau": 0.001, "target_update_every": 1, "act_head_dim": 1024, "obs_head_dim": 1024},
        **{"quantizer": "none", "target": "ema"},
    }
    assert dataclasses.asdict(idm.PRESETS["paper"][1].idm) == {  # Table 8
        **common,
        **{"num_updates": 10_000, "warmup_epochs": 3, "encoder_scale": 12, "future_obs_offset": 1, "act_head_dim": 1024},
    }
    stage_2 = {"num_epochs": 10, "warmup_epochs": 0, "encoder_scale": 32}
    for method in (lapo, laom, idm):
        assert dataclasses.asdict(method.PRESETS["paper"][1].bc) == common | stage_2
    assert dataclasses.asdict(bc.PRESETS["paper"][1].bc) == common | stage_2 | {"num_updates": 10_000}  # Tables 9 and 10
    for method in (lapo, laom):
        decoder = {"batch_size": 512, "hidden_dim": 256, "learning_rate": 3e-4, "num_updates": 2500}
        assert dataclasses.asdict(method.PRESETS["paper"][1].decoder) == decoder
    for method in (lapo, laom, idm, bc):
        assert method.parse_args([]) == method.Args() and method.Args().eval.num_episodes == 25
        assert method.Args().num_labeled_trajectories[-7:] == (2, 4, 8, 16, 32, 64, 128)


def test_scripts_import_allowed_packages_only():
    allowed = {"torch", "numpy", "tyro", "wandb", "h5py", "dm_control", "mujoco", "shimmy", "gymnasium", "tqdm", "matplotlib"}
    allowed |= {"imageio", "PIL", "av", "absl"} | sys.stdlib_module_names  # what the README gives a reason for, or comes with these
    for path in (ROOT / script for script in [*SETTINGS, "collect_data.py", "benchmark/measure.py", "benchmark/table.py"]):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path


# ---- Quantisers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantize", [laom.LAM.infer, lapo.LAM.quantize])
def test_fsq(quantize):
    z = torch.randn(64, 8, requires_grad=True)
    lam = types.SimpleNamespace(quantizer="fsq", idm=lambda x, condition: z)  # an IDM that says z
    quantized = quantize(lam, *([z] if quantize is lapo.LAM.quantize else [z, z]))
    assert torch.allclose(quantized, torch.where(z > 0, 1.0, -1.0), atol=1e-6)
    quantized.sum().backward()
    assert torch.allclose(z.grad, 1 - torch.tanh(z) ** 2)  # as if nothing had been rounded


def test_vq_learns_codes_and_revives_dead_ones():
    torch.manual_seed(0)
    quantizer, generator, centers = lapo.VQ(), torch.Generator().manual_seed(0), torch.randn(24, 16)

    def batch():  # 8 codes of 16 dimensions, each near one of 24 points
        return (centers[torch.randint(24, (128, 8))] + 0.05 * torch.randn(128, 8, 16)).flatten(1)

    errors = []
    for _ in range(150):
        z = batch()
        quantizer.update(z, generator)
        errors.append(torch.nn.functional.mse_loss(quantizer(z), z).item())
    assert errors[-1] < 0.5 * errors[0] and errors[-1] < 0.1, errors[::50]
    codes = quantizer.nearest(quantizer.vectors(z))
    assert codes.shape == (2, 4 * 128) and min(len(codebook.unique()) for codebook in codes) > 0.3 * 64

    z = batch().requires_grad_()
    quantized = quantizer(z)
    entries = quantizer.codebooks.flatten(0, 1)
    assert torch.cdist(quantized.detach().unflatten(1, (8, 16)).flatten(0, 1), entries).min(1).values.max() < 0.02
    (quantized * torch.arange(128)).sum().backward()
    assert torch.equal(z.grad, torch.arange(128.0).expand(128, 128))  # straight through

    quantizer.codebooks[0, 5], quantizer.sums[0, 5], quantizer.idle[0, 5] = 100.0, 100.0, 0  # an entry far from everything
    for _ in range(102):
        quantizer.update(batch(), generator)
    assert quantizer.codebooks[0, 5].abs().max() < 10


# ---- What is learned ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean_file(tmp_path_factory) -> Path:
    """Five trajectories without distractors, and one for evaluation."""
    folder = tmp_path_factory.mktemp("clean")
    command = ["collect_data.py", "--difficulty", "vanilla", "--num-trajectories", 5, "--num-eval-trajectories", 1]
    result = run(*command, "--num-workers", 2, "--output", folder)
    assert result.returncode == 0, result.stderr
    return folder / "cheetah-run__vanilla__train.hdf5"


def measured(method, args, network) -> dict:
    import measure

    data, _, eval_data = method.load_data(args)
    return measure.measure(method, args, network, data, eval_data, [])


def test_lapo_finds_actions_where_nothing_distracts(clean_file, monkeypatch):
    """Without distractors z comes to tell the true action: better than the mean action and than an untrained LAM."""
    monkeypatch.syspath_prepend(ROOT / "benchmark")
    changes = {"lam__num_epochs": 6, "lam__future_obs_offset": 1, "lam__quantizer": "none"}
    args = lapo.parse_args([*flags("lapo.py", 1, **changes), "--data", str(clean_file)])
    torch.manual_seed(args.seed)
    untrained = measured(lapo, args, lapo.LAM(args.lam, 3).requires_grad_(False))["action_probe_mse_over_var/unseen_videos"]
    lam = lapo.train_lam(args, lapo.Dataset(args.data, args.device), "lam", Recorder(230, keep=False))
    results = measured(lapo, args, lam.requires_grad_(False))
    assert results["action_probe_mse_over_var/unseen_videos"] < min(0.7, 0.9 * untrained), (results, untrained)
    assert len(results["action_probe_mse_over_var_per_dimension/seen_videos"]) == 6
    assert results["shuffled_loss_ratio"] > 1 and 1 < results["effective_rank"] <= 32
    assert {"blind_loss_ratio", "copy_loss_ratio", "blind_probe_mse_over_var/seen_videos"} < results.keys()


class Teller(torch.nn.Module):
    """A LAM in pixels that predicts the older frames right and whose z is what it is told to be: the IDM's second picture, or its
    first."""

    def __init__(self, second: bool):
        super().__init__()
        self.decoder, self.encoder, self.second = None, torch.nn.Identity(), second

    def forward(self, obs, future_obs):
        return (future_obs if self.second else obs)[:, -3:]

    def predict(self, obs, z):
        return torch.cat([obs[:, 3:], z], 1)


def test_errors_of_a_lam_that_sees_the_change_and_of_one_that_does_not(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmark")
    import measure

    frames = torch.randn(8, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    obs, next_obs = frames[:, :9], frames[:, 3:]
    own, others, blind, no_change = measure.prediction_errors(Teller(second=True), obs, next_obs)[0].tolist()
    assert own == 0 and others > 0.3 and blind == no_change > 0.3
    own, others, blind, no_change = measure.prediction_errors(Teller(second=False), obs, next_obs)[0].tolist()
    assert own == blind == no_change > 0.3 and others > 0.3


def test_bc_beats_random_actions(clean_file):
    args = bc.parse_args([*flags("bc.py", "all", eval__num_episodes=2, bc__learning_rate=4e-3), "--data", str(clean_file)])
    data, _, eval_data = bc.load_data(args)
    actor = bc.train_actor(args, data, data.transitions(), 300, "bc_all", Recorder(300, keep=False))
    assert bc.action_error(args, actor, eval_data)["action_mse_over_var"] < 0.7
    bc.pick_rendering_backend()
    result = bc.evaluate(args, data, actor, torch.nn.Identity(), clean_file.with_name("film.gif"))
    random_return = data.attributes["random_return"]
    assert result["seen_videos"]["return_mean"] > 2 * random_return and len(result["unseen_videos"]["returns"]) == 2


def test_laom_learns_without_actions(train_file):
    """True actions reach the probes alone: with other actions in the file the LAM is the same, bit for bit."""
    args = laom.parse_args([*flags("laom.py", 1), "--data", str(train_file)])
    args = dataclasses.replace(args, device="cpu", precision="fp32")
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


class Shifted(torch.nn.Module):
    """A LAM whose latent actions are those of another in other units and far from zero."""

    def __init__(self, lam: torch.nn.Module):
        super().__init__()
        self.lam = lam

    def forward(self, obs, next_obs):
        return 8 * self.lam(obs, next_obs) + 32


def test_actor_does_not_mind_where_z_lies(train_file):
    args = laom.parse_args([*flags("laom.py", 1, lam__quantizer="none"), "--data", str(train_file)])
    args = dataclasses.replace(args, device="cpu", precision="fp32")
    data, ends = laom.Dataset(args.data, "cpu"), []
    torch.manual_seed(0)
    lam = laom.LAM(args.lam, args.frame_stack)
    for network in (lam, Shifted(lam)):
        laom.train_actor(args, data, network, "bc", recorder := Recorder(5))
        ends.append(recorder.history[-1]["actor"])
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=0.2 * args.bc.learning_rate)  # Adam: a step is a rate


def test_idm_learns_the_actions_of_its_trajectories(train_file):
    """A few dozen updates on one trajectory beat its mean action there; the actor has the IDM's outputs as targets."""
    args = idm.parse_args([*flags("idm.py", 1, idm__learning_rate=1e-3), "--data", str(train_file)])
    data = idm.Dataset(args.data, args.device)
    args.idm.num_updates, index = 100, data.transitions(data.shuffle[:1])
    network = idm.train_idm(args, data, index, "idm_1", Recorder(100, keep=False))
    prediction = idm.infer_all(args, network, data, index, idm.OBS, idm.NEXT_OBS)
    mse = torch.nn.functional.mse_loss(prediction, data.actions[index])
    assert mse < 0.8 * data.actions[index].var(0, unbiased=False).mean()


# ---- Pipelines ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script,budgets", [("lapo.py", [2]), ("laom.py", [1, 2]), ("idm.py", [2]), ("bc.py", ["all", 1])])
def test_pipeline_stopped_and_resumed(script, budgets, train_file, tmp_path):
    """SIGTERM in the first stage: a checkpoint and a line that says how to go on; then the whole pipeline."""
    command = [sys.executable, ROOT / script, *flags(script, *budgets), "--data", train_file, "--runs", tmp_path]
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
    assert list(results["budgets"]) == [str(budget) for budget in budgets]
    for budget in results["budgets"].values():
        for videos in ("seen_videos", "unseen_videos"):
            assert budget[videos]["return_mean"] == pytest.approx(np.mean(budget[videos]["returns"]))
            assert np.isfinite(budget[videos]["normalized_score"])
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for stage in {record["stage"] for record in records if "step" in record}:
        steps = [record["step"] for record in records if record["stage"] == stage]
        assert steps == sorted(set(steps)), stage
    weights, last = {path.name for path in folder.glob("*.pt")}, budgets[-1]
    if script in ("lapo.py", "laom.py"):
        assert {"lam.pt", "actor.pt", *(f"decoder_{budget}.pt" for budget in budgets)} <= weights
        assert 0 < results["latent_actions"]["action_probe_mse_over_var/seen_videos"] < 2
        assert f"action_probe_mse_over_var/unseen_videos {'':19}" in result.stdout  # the table at the end of stage 1
    elif script == "idm.py":
        assert {"idm_2.pt", "actor_2.pt"} <= weights
        assert 0 < results["budgets"]["2"]["idm"]["idm_mse_over_var/unseen_videos"] < 3
    else:
        assert {"actor_all.pt", "actor_1.pt"} <= weights
        assert 0 < results["budgets"]["all"]["action_mse_over_var"] < 2
    if script == "lapo.py":
        assert all(1 <= record["lam/code_perplexity"] <= 64 for record in records if record["stage"] == "lam")
        import imageio.v3 as imageio

        assert imageio.imread(folder / "prediction.png").shape == (3 * 192, 12 * 192, 3)
    assert (folder / f"rollout_{last}.gif").exists()


def test_pretraining_on_other_tasks_and_finished_stages(train_file, tmp_path):
    """Two tasks as one dataset, labels of one; then a second run takes both trained stages from the first."""
    command = ["collect_data.py", "--task", "walker-run", "--num-trajectories", 2, "--num-eval-trajectories", 0, "--difficulty"]
    assert run(*command, "vanilla", "--num-workers", 2, "--output", tmp_path / "walker").returncode == 0
    walker = tmp_path / "walker" / "walker-run__vanilla__train.hdf5"
    data = laom.Dataset((str(train_file), str(walker)), "cpu", trajectories_per_file=1)
    assert data.task == "cheetah-run+walker-run" and data.num_trajectories == 2
    assert data.actions.shape == (2000, 12) and data.states.shape == (2000, 17 + 24)
    for rows, own in ((slice(0, 1000), slice(0, 6)), (slice(1000, 2000), slice(6, 12))):
        assert data.actions[rows, own].isfinite().all() and data.actions[rows].isfinite().sum() == 6000
    with h5py.File(walker) as file:
        frames = data.observations(torch.tensor([500, 1500]), 1)[:, 0].numpy()
        assert (frames[1] == file["0/obs"][500]).all()
    with h5py.File(train_file) as file:
        assert (frames[0] == file["0/obs"][500]).all()

    common = [*flags("laom.py", 1), "--labeled-data", train_file, "--runs", tmp_path / "runs"]
    result = run("laom.py", *common, "--data", walker, "--lam.num-epochs", 1)
    assert result.returncode == 0, result.stderr
    first = next((tmp_path / "runs").iterdir())
    results = json.loads((first / "results.json").read_text())
    assert results["task"] == "cheetah-run" and np.isfinite(results["budgets"]["1"]["unseen_videos"]["return_mean"])
    assert len(results["latent_actions"]["action_probe_mse_over_var_per_dimension/unseen_videos"]) == 6

    result = run("laom.py", *common, "--data", walker, "--lam.checkpoint", first, "--bc.checkpoint", first / "actor.pt")
    assert result.returncode == 0, result.stderr
    second = next(path for path in (tmp_path / "runs").iterdir() if path != first)
    again = json.loads((second / "results.json").read_text())
    assert again == results and (second / "lam.pt").exists()
    assert not any('"lam' in line or '"bc"' in line for line in (second / "metrics.jsonl").read_text().splitlines())

    result = run("laom.py", *common, "--data", walker, "--lam.checkpoint", first / "actor.pt")
    assert result.returncode != 0 and "holds no weights for this network" in result.stderr.splitlines()[-1]


def as_recorded_by_others(path: Path, target: Path, lengths=(900, 400, 700)) -> Path:
    """A file like the paper's: unclipped actions, no physics, no seeds, other lengths, no word of where its videos are."""
    with h5py.File(path) as source, h5py.File(target, "w") as file:
        for name in ("domain_name", "task_name", "difficulty", "dynamic", "img_hw", "split"):
            file.attrs[name] = source.attrs[name]
        for i, length in enumerate(lengths[: len([name for name in source if name.isdigit()])]):
            for name in ("obs", "states", "actions"):
                values = source[f"{i}/{name}"][:length]
                file.create_dataset(f"{i}/{name}", data=values * 3 if name == "actions" else values)
            file[str(i)].attrs["traj_return"] = source[str(i)].attrs["traj_return"]
    return target


def test_files_that_others_recorded(train_file, tmp_path):
    """The paper's files with a separate labelled file, and plain videos, which stop after the stages without actions."""
    train = as_recorded_by_others(train_file, tmp_path / "train.hdf5")
    val = as_recorded_by_others(train_file.with_name(train_file.name.replace("train", "val")), tmp_path / "val.hdf5")
    labeled = as_recorded_by_others(train_file, tmp_path / "labeled.hdf5", lengths=(500, 500))
    backgrounds = train_file.parent / "backgrounds" / "frames0"
    backgrounds = backgrounds if backgrounds.exists() else next((train_file.parent / "backgrounds").iterdir())
    common = ["--data", train, "--eval.backgrounds", backgrounds, "--runs", tmp_path / "runs"]
    result = run("laom.py", *flags("laom.py", 2), *common, "--labeled-data", labeled, "--eval-data", val)
    assert result.returncode == 0, result.stderr
    results = json.loads(next((tmp_path / "runs").glob("*/results.json")).read_text())
    assert results["budgets"].keys() == {"2"} and results["dataset_return"] > 700
    data = laom.Dataset((str(train),), "cpu")
    assert data.actions.abs().max() == 1 and len(data.transitions()) == 899 + 399 + 699

    for path in (train, val):
        with h5py.File(path, "r+") as file:
            for name in [name for name in file if name.isdigit()]:
                del file[name]["actions"], file[name]["states"]
            file.attrs["domain_name"], file.attrs["task_name"] = "video", "mine"
    for script in ("laom.py", "lapo.py"):
        shutil.rmtree(tmp_path / "runs")
        result = run(script, *flags(script, 1), "--data", train, "--runs", tmp_path / "runs")
        assert result.returncode == 0, result.stderr
        folder = next((tmp_path / "runs").iterdir())
        results = json.loads((folder / "results.json").read_text())
        assert (folder / "actor.pt").exists() and results["budgets"] == {} and results["latent_actions"]["effective_rank"] > 1
        assert "warning" not in result.stderr.lower()
    for script in ("laom_supervised.py", "idm.py", "bc.py"):
        result = run(script, *flags(script, 1), "--data", train, "--runs", tmp_path / "others")
        assert result.returncode != 0 and "give --labeled-data" in result.stderr and not (tmp_path / "others").exists()


def test_twins_and_reconstruction(train_file, tmp_path):
    """The trajectories of the evaluation file rendered without distractors: how much of z was the distractors' doing?"""
    val = train_file.with_name(train_file.name.replace("train", "val"))
    result = run(
        "collect_data.py", "--rerender", val, "--difficulty", "vanilla", "--output", tmp_path / "twins", "--num-workers", 1
    )
    assert result.returncode == 0, result.stderr
    twin = next((tmp_path / "twins").glob("*.hdf5"))
    command = flags("laom_supervised.py", 1, lam__latent_action_dim=8)
    result = run("laom_supervised.py", *command, "--data", train_file, "--runs", tmp_path / "runs", "--twin-data", twin)
    assert result.returncode == 0, result.stderr
    folder = next((tmp_path / "runs").iterdir())
    measures = json.loads((folder / "results.json").read_text())["budgets"]["1"]["latent_actions"]
    assert 0 < measures["distractor_share/no_distractors"] < 1.1
    for kind in ("action_probe", "action_head"):
        assert measures[f"{kind}_mse_over_var/no_distractors"] > 0
    result = run("benchmark/measure.py", folder, "--twin-data", val, "--reconstruct", "--num-updates", 30)
    assert result.returncode == 0, result.stderr
    same = json.loads((folder / "lam_1.json").read_text())
    assert same[f"distractor_share/twin:{val}"] < 1e-3  # a file is its own twin
    assert same["shuffled_loss_ratio"] == pytest.approx(measures["shuffled_loss_ratio"], rel=1e-3)
    import imageio.v3 as imageio

    picture = imageio.imread(folder / "lam_1.png")
    assert picture.shape == (2 * 192, 12 * 192, 3) and picture[192:].std() > 1
    result = run("benchmark/measure.py", folder, "--twin-data", train_file)
    assert result.returncode != 0 and "is no twin of" in result.stderr.splitlines()[-1]
    for path in (folder / "lam_9.pt", folder / "actor_1.pt", tmp_path):
        result = run("benchmark/measure.py", path)
        assert result.returncode != 0 and "is no finished first stage" in result.stderr

    result = run("benchmark/table.py", folder, tmp_path)
    assert result.returncode == 0 and "no results.json yet" in result.stderr
    row = next(line for line in result.stdout.splitlines() if line.startswith(f"| {folder.name}"))
    assert f"{measures['action_probe_mse_over_var/seen_videos']:.3f} \\| " in row and "(laom_supervised.py)" in row
