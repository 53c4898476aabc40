"""laom_supervised.py: the paper's networks and presets, what sends gradients where, batches, rates and
augmentation, and what a run says and leaves, begun, stopped and resumed as its user does it."""

import dataclasses
import json
import signal
import subprocess

import numpy as np
import pytest
import torch
from conftest import ROOT, Recorder, command, count, only_one, parse, read_records, start, wait_for

import laom_supervised
from laom_supervised import (
    LAM,
    PRESETS,
    Actor,
    Args,
    Dataset,
    Head,
    LAMArgs,
    batch_rows,
    learning_rate,
    parse_args,
    random_homographies,
    train_lam,
)


def test_parameter_totals_of_table_4():
    paper = PRESETS["paper"][1]
    with torch.device("meta"):
        assert count(LAM(paper.lam, 3, 21)) == 192_479_189
        assert count(Actor(paper.bc, 3, paper.lam.latent_action_dim)) == 107_541_504
        assert count(Actor(paper.bc, 3, 21)) == 99_166_229


def test_paper_preset_is_table_7():
    paper = dataclasses.asdict(PRESETS["paper"][1])
    assert paper["lam"] == {
        **{
            "use_aug": True,
            "batch_size": 512,
            "num_epochs": 10,
            "target_tau": 0.001,
            "act_head_dim": 1024,
            "obs_head_dim": 1024,
        },
        **{
            "encoder_scale": 6,
            "learning_rate": 1e-4,
            "warmup_epochs": 3,
            "future_obs_offset": 10,
            "latent_action_dim": 8192,
        },
        **{
            "labeled_batch_size": 128,
            "target_update_every": 1,
            "encoder_num_res_blocks": 2,
        },
        **{"labeled_loss_coef": None, "target": "ema"},  # c: 0.01, cheetah-run 0.001; EMA by the design notes
    }
    assert paper["bc"] == {
        **{
            "batch_size": 512,
            "num_epochs": 10,
            "encoder_scale": 32,
            "learning_rate": 1e-4,
            "warmup_epochs": 0,
        },
        **{"encoder_num_res_blocks": 2},
    }
    assert paper["decoder"] == {
        "batch_size": 512,
        "hidden_dim": 256,
        "learning_rate": 3e-4,
        "num_updates": 2500,
    }
    assert (
        paper["eval"]["num_episodes"] == 25 and paper["frame_stack"] == 3 and paper["lr_schedule"] == "cosine"
    )
    assert parse_args([]) == parse_args(["paper"]) == Args()


@pytest.mark.parametrize("precision,dtype", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_precision(precision, dtype):
    args = Args(device="cpu", precision=precision)
    with args.autocast():
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == args.dtype == dtype


# ---- What sends gradients where ----------------------------------------------------------------------------


def small_lam() -> LAM:
    torch.manual_seed(0)
    sizes = {"act_head_dim": 32, "obs_head_dim": 32, "latent_action_dim": 16}
    return LAM(LAMArgs(encoder_scale=1, encoder_num_res_blocks=1, **sizes), 3, 6)


@pytest.fixture
def args(short_file):
    return parse("laom_supervised.py", short_file, lam__use_aug=False)


def train_briefly(args: Args, data: Dataset, steps: int = 3) -> list[dict]:
    recorder = Recorder(steps)
    train_lam(args, data, data, data.transitions(data.shuffle[:2]), "lam_2", recorder)
    return recorder.history


def test_the_encoder_learns_through_the_idm():
    lam, images = small_lam(), torch.rand(4, 9, 64, 64) * 2 - 1
    lam.infer(*lam.embed(images, images.flip(0))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in lam.encoder.parameters())


def test_the_fdm_sees_a_detached_embedding(args, monkeypatch):
    """In training, what reaches the FDM as e_t carries no gradient, z does: the encoder learns through the
    IDM alone."""
    seen, forward = [], Head.forward

    def spy(head, x, condition):
        seen.append((x.shape[1], x.requires_grad, condition.requires_grad))
        return forward(head, x, condition)

    predict = LAM.predict

    def spy_embedding(lam, obs_embedding, latent_action):
        seen.append((obs_embedding.requires_grad, latent_action.requires_grad))
        return predict(lam, obs_embedding, latent_action)

    monkeypatch.setattr(Head, "forward", spy)
    monkeypatch.setattr(LAM, "predict", spy_embedding)
    train_briefly(args, Dataset(args.data, args), steps=1)
    assert seen == [(4096, True, True), (False, True), (2048 + 32, True, True)], seen


def test_target_is_a_slow_copy(args):
    tau, history = args.lam.target_tau, train_briefly(args, Dataset(args.data, args))
    for before, after in zip(history[:-1], history[1:]):
        for name, old in before["target"].items():
            new = after["lam"][f"encoder.{name}"]
            assert torch.allclose(after["target"][name], old + tau * (new - old), atol=1e-8)
        assert not torch.equal(before["lam"]["encoder.0.weight"], after["lam"]["encoder.0.weight"])


@pytest.mark.parametrize("target_update_every,moved", [(1, True), (5, False)])
def test_target_moves_when_due(args, target_update_every, moved):
    args.lam.target_update_every = target_update_every
    history = train_briefly(args, Dataset(args.data, args))
    assert torch.equal(history[0]["target"]["0.weight"], history[-1]["target"]["0.weight"]) != moved


def test_without_a_slow_copy_the_target_is_the_encoder(args):
    args.lam.target = "stop_grad"
    for state in train_briefly(args, Dataset(args.data, args)):
        assert all(
            torch.equal(value, state["lam"][f"encoder.{name}"]) for name, value in state["target"].items()
        )


def test_probes_send_no_gradient_to_the_lam(args):
    """What the probes must predict does not change what the LAM learns; the labels do."""
    args.lam.labeled_loss_coef = 0.0
    data, other = Dataset(args.data, args), Dataset(args.data, args)
    other.actions, other.states = -other.actions, other.states * 3 + 1
    same, changed = train_briefly(args, data)[-1], train_briefly(args, other)[-1]
    assert all(torch.equal(value, changed["lam"][name]) for name, value in same["lam"].items())
    assert not torch.equal(same["probes"]["action.weight"], changed["probes"]["action.weight"])
    args.lam.labeled_loss_coef = 1.0
    different = train_briefly(args, other)[-1]
    assert not torch.equal(same["lam"]["encoder.0.weight"], different["lam"]["encoder.0.weight"])


def test_relabelling_sees_the_change(args):
    """lam(obs, next_obs) is the IDM's answer to the two embeddings, and another one where nothing changes."""
    data, lam = Dataset(args.data, args), small_lam()
    obs, next_obs = data.observe_pair(data.transitions(data.shuffle)[:8])
    z, (e1, e2) = lam(obs, next_obs), (lam.encoder(x).flatten(1) for x in (obs, next_obs))
    assert z.shape == (8, 16) and torch.allclose(z, lam.infer(e1, e2), atol=1e-5)
    assert not torch.allclose(lam(obs, obs), z, atol=1e-3) and lam.predict(e1, z).shape == e1.shape


def test_the_decoder_decodes_what_the_actor_says(args):
    """On labelled transitions, true actions come of the frozen actor's answers."""
    data = Dataset(args.data, args)
    index = data.transitions(data.shuffle[:2])
    torch.manual_seed(0)
    actor = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(9 * 64 * 64, args.lam.latent_action_dim)
    ).requires_grad_(False)
    args.decoder.num_updates, args.decoder.learning_rate = 200, 1e-2
    decoder = laom_supervised.train_decoder(args, data, index, actor, "decoder_2", Recorder(200, keep=False))
    prediction = laom_supervised.infer_all(args, lambda obs, _: decoder(actor(obs)), data, index)
    assert prediction.shape == (len(index), 6)
    mse = torch.nn.functional.mse_loss(prediction, data.actions[index])
    assert mse < 0.8 * data.actions[index].var(0, unbiased=False).mean()


def test_inference_is_not_compiled(args):
    """What is compiled for training runs as it is for inference, which comes in other shapes."""
    data = Dataset(args.data, args)
    index = data.transitions(data.shuffle)[:600]  # two batches, of different size
    compiled = []
    actor = laom_supervised.Actor(args.bc, args.frame_stack, 16)
    actor.compile(backend=lambda graph, inputs: compiled.append(1) or graph.forward)
    z = laom_supervised.infer_all(args, lambda obs, _: actor(obs), data, index)
    assert z.shape == (len(index), 16) and not compiled
    actor(data.observe(index[:4]))
    assert compiled


# ---- Rates, batches, augmentation --------------------------------------------------------------------------


def test_learning_rate_end_points():
    for schedule in ("cosine", "linear"):
        rates = [learning_rate(1.0, step, 10, 110, schedule) for step in range(111)]
        assert (
            rates[0] == pytest.approx(0.1)
            and rates[9] == rates[10] == pytest.approx(1)
            and rates[110] == pytest.approx(0)
        )
        assert all(a >= b for a, b in zip(rates[9:], rates[10:])) and rates[60] == pytest.approx(0.5)
    assert learning_rate(1.0, 0, 0, 10, "cosine") == 1


def test_an_epoch_is_a_permutation():
    epochs = []
    for epoch in range(2):
        batches = [batch_rows(103, 20, 7, step) for step in range(5 * epoch, 5 * epoch + 5)]
        epochs.append(torch.cat(batches))
    for epoch in epochs:
        assert len(epoch.unique()) == 100 and epoch.max() < 103
    assert not torch.equal(*epochs)
    assert torch.equal(batch_rows(103, 20, 7, 3), epochs[0][60:80])


def test_each_purpose_has_its_own_stream():
    """So has each seed, however large, and each step."""
    streams = set()
    for purpose in ("permutation", "lam", "labels", "decoder"):
        for seed in (0, 1, 10**18):
            for step in range(3):
                generator = laom_supervised.random_generator(purpose, seed, step)
                streams.add(tuple(torch.rand(4, generator=generator).tolist()))
    assert len(streams) == 4 * 3 * 3


def test_augmentation_keeps_identity_and_replicates_edges(monkeypatch):
    def augment(images, homographies):
        monkeypatch.setattr(laom_supervised, "random_homographies", lambda number, generator: homographies)
        return laom_supervised.augment(images, None)

    images = torch.rand(256, 9, 64, 64) * 2 - 1
    homographies = random_homographies(256, torch.Generator().manual_seed(0))
    identity = (homographies == torch.eye(3)).all(-1).all(-1)
    assert identity.float().mean() == pytest.approx(1 / 8, abs=0.06)
    warped = augment(images, homographies)
    assert torch.allclose(warped[identity], images[identity], atol=1e-4)  # interpolated, to rounding
    assert (
        warped.min() >= -1
        and warped.max() <= 1
        and (warped[~identity] != images[~identity]).float().mean() > 0.9
    )

    shift = torch.eye(3).repeat(2, 1, 1)
    shift[:, 0, 2], shift[:, 1, 2] = torch.tensor([14.0, -14.0]), torch.tensor([-5.0, 3.0])
    columns, rows = (torch.arange(64) + 14).clamp(0, 63), (torch.arange(64) - 5).clamp(0, 63)
    assert torch.allclose(augment(images[:2], shift)[0], images[0][:, rows][:, :, columns], atol=1e-4)
    gray = torch.full((64, 9, 64, 64), 0.25)  # no black corners: an even picture stays even
    assert torch.allclose(augment(gray, homographies[:64]), gray, atol=1e-5)


def test_augmentation_ranges():
    """Shifts of at most 14 pixels, rotations of at most 90 degrees, perspective that moves corners at most
    half way inwards."""
    homographies = random_homographies(4000, torch.Generator().manual_seed(1))
    linear, shift, projective = homographies[:, :2, :2], homographies[:, :2, 2], homographies[:, 2, :2]
    rigid = (projective == 0).all(-1) & torch.isclose(torch.linalg.det(linear), torch.tensor(1.0), atol=1e-4)
    assert shift[rigid].norm(dim=-1).max() <= 14 * 2**0.5 + 1e-4 and shift[rigid].abs().max() > 13
    angles = torch.atan2(linear[rigid, 1, 0], linear[rigid, 0, 0])
    assert angles.abs().max() <= torch.pi / 2 + 1e-4 and angles.abs().max() > 1.5
    assert 0.3 < rigid.float().mean() < 0.75  # the others have a perspective


# ---- The held-out probe ------------------------------------------------------------------------------------


def test_ridge_regression_and_errors():
    generator = torch.Generator().manual_seed(0)
    z, weight = torch.randn(500, 8, generator=generator), torch.randn(8, 3, generator=generator)
    actions = z @ weight + 5
    predict = laom_supervised.fit_ridge(z[:400] + 100, actions[:400])
    errors = laom_supervised.action_errors("probe", "here", predict(z[400:] + 100), actions[400:])
    assert (
        errors.keys() == {"probe_mse/here", "probe_mse_over_var/here"}
        and errors["probe_mse_over_var/here"] < 1e-4
    )
    mean = laom_supervised.action_errors("probe", "here", actions.mean(0).expand(500, 3), actions)
    assert mean["probe_mse_over_var/here"] == pytest.approx(1) and mean["probe_mse/here"] > 1
    assert laom_supervised.action_errors("probe", "here", actions, torch.full((500, 3), torch.nan)) == {}


def test_effective_rank():
    z = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    assert laom_supervised.effective_rank(z) == pytest.approx(8, rel=0.05)
    assert laom_supervised.effective_rank(z[:, :1] @ torch.ones(1, 8)) == pytest.approx(1)


# ---- A run, as its user does it ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_and_resumed(train_file, tmp_path_factory) -> tuple:
    """SIGTERM in the first stage; then the run's own copy of the script goes on. What both said, and the
    run's folder."""
    runs, sizes = (
        tmp_path_factory.mktemp("runs"),
        {"lam__batch_size": 128, "bc__batch_size": 128, "decoder__batch_size": 64},
    )
    sizes |= {"lam__num_epochs": 1, "bc__num_epochs": 1, "lam__use_aug": False}
    changes = {"log_interval": 5, "checkpoint_minutes": 10, "eval__num_workers": 2}
    words = command("laom_supervised.py", train_file, **sizes, **changes)
    process = start(ROOT / "laom_supervised.py", *words, "--runs", runs)
    wait_for(process, lambda: any("step" in path.read_text() for path in runs.glob("*/metrics.jsonl")))
    process.send_signal(signal.SIGTERM)
    stopped = process.communicate()[1]
    assert process.returncode == 1, stopped
    folder = only_one(runs)
    process = start(folder / "laom_supervised.py", "--resume", folder, stdout=subprocess.PIPE)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return stopped, output, errors, folder


def test_what_a_run_says(stopped_and_resumed):
    stopped, output, errors, folder = stopped_and_resumed
    assert (
        stopped.splitlines()[-1]
        == f"stopped; continue with: python {ROOT / 'laom_supervised.py'} --resume {folder}"
    )
    assert output.startswith(f"run folder: {folder}\n")
    assert not [line for line in (stopped + errors).splitlines() if "warning" in line.lower()]
    results = json.loads((folder / "results.json").read_text())
    for videos, row in zip(("seen_videos", "unseen_videos"), output.splitlines()[-2:]):  # the table
        played, measures = results["budgets"]["2"][videos], results["budgets"]["2"]["latent_actions"]
        assert (
            row.startswith(f"| 2 | {videos} | ")
            and f"{played['return_mean']:.1f} ± {played['return_std']:.1f}" in row
        )
        assert f"{measures[f'action_probe_mse_over_var/{videos}']:.3f}" in row
        assert f"{measures[f'action_head_mse_over_var/{videos}']:.3f}" in row


def test_a_run_leaves_everything(stopped_and_resumed, train_file):
    *_, folder = stopped_and_resumed
    names = {path.name for path in folder.iterdir()}
    assert names >= {"args.json", "laom_supervised.py", "metrics.jsonl", "results.json", "checkpoint.pt"}
    assert names >= {"lam_2.pt", "actor_2.pt", "decoder_2.pt", "rollout_2.gif"} and not any(
        "partial" in name for name in names
    )
    assert folder.name.startswith("cheetah-run__laom_supervised__0__")
    args = json.loads((folder / "args.json").read_text())
    assert args["data"] == [str(train_file)] and args["lam"]["batch_size"] == 128 and "argv" not in args

    results = json.loads((folder / "results.json").read_text())
    assert (
        results["script"] == "laom_supervised.py"
        and results["task"] == "cheetah-run"
        and results["seed"] == 0
    )
    assert (
        results["dataset_return"] > 780
        and 0 < results["random_return"] < 50
        and results["reference_return"] == 823
    )
    budget = results["budgets"]["2"]
    for videos in ("seen_videos", "unseen_videos"):
        played = budget[videos]
        assert len(played["returns"]) == 1 and played["return_mean"] == pytest.approx(
            np.mean(played["returns"])
        )
        assert played["normalized_score"] == pytest.approx(played["return_mean"] / 823)
        for kind in ("action_probe", "blind_probe", "action_head"):
            assert 0 < budget["latent_actions"][f"{kind}_mse_over_var/{videos}"] < 3
    assert 1 < budget["latent_actions"]["effective_rank"] <= 32

    records = read_records(folder)
    assert {record["stage"] for record in records} == {"lam_2", "bc_2", "decoder_2", "eval_2"}
    lam = [record for record in records if record["stage"] == "lam_2"]
    expected = {
        "loss",
        "consistency_loss",
        "labeled_mse",
        "action_probe_mse",
        "obs_action_probe_mse",
        "state_probe_mse",
    }
    assert {f"lam/{name}" for name in {*expected, "learning_rate"}} <= set(lam[0])
    assert "lam/transitions_per_second" in (folder / "metrics.jsonl").read_text()
    assert [record["step"] for record in lam] == [5, 10, 15, 20, 23]  # 2,997 transitions in batches of 128
    assert lam[-1]["lam/loss"] < lam[0]["lam/loss"]


def test_the_film(finished):
    """Two episodes with seen videos and two with unseen ones, side by side, twice as large; here there is
    one of each."""
    film = laom_supervised.imageio.imread(finished("laom_supervised.py") / "rollout_2.gif")
    assert film.shape == (6, 128, 256, 3)  # every fourth picture of 21


def test_evaluation_does_not_depend_on_the_number_of_workers(args, forks, monkeypatch, tmp_path):
    monkeypatch.setattr(laom_supervised, "EPISODE_LENGTH", 10)
    _, data, _ = laom_supervised.load_data(args)
    environments = laom_supervised.find_environments(args, data)
    torch.manual_seed(0)
    actor, returns, args.eval.num_episodes = Actor(args.bc, 3, 6), [], 2
    for args.eval.num_workers in (1, 3):
        film = tmp_path / f"{args.eval.num_workers}.gif"
        played = laom_supervised.evaluate(args, environments, 10, actor, film)
        returns.append(np.array([played["seen_videos"], played["unseen_videos"]]))
    assert returns[0].shape == (2, 2) and np.array_equal(*returns)
    films = [laom_supervised.imageio.imread(tmp_path / name) for name in ("1.gif", "3.gif")]
    assert np.array_equal(*films)
    episodes = np.split(films[0], 4, axis=2)
    assert all(np.abs(episodes[i].astype(int) - episodes[j]).mean() > 2 for i in range(4) for j in range(i))
