"""laom_supervised.py: what sends gradients where; batches, rates, augmentation; closed forms."""

import pytest
import torch
from conftest import Recorder, parse

import laom_supervised
from laom_supervised import (
    LAM,
    Args,
    Dataset,
    Head,
    LAMArgs,
    batch_rows,
    learning_rate,
    random_homographies,
    train_lam,
)


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
    lam = small_lam()
    images = torch.rand(4, 9, 64, 64) * 2 - 1
    lam.infer(*lam.embed(images, images.flip(0))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in lam.encoder.parameters())


def test_the_fdm_sees_a_detached_embedding(args, monkeypatch):
    """What reaches the FDM as e_t carries no gradient, z does: the encoder learns by the IDM alone."""
    seen = []
    forward = Head.forward

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
    tau = args.lam.target_tau
    history = train_briefly(args, Dataset(args.data, args))
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
    history = train_briefly(args, Dataset(args.data, args))
    for state in history:
        for name, value in state["target"].items():
            assert torch.equal(value, state["lam"][f"encoder.{name}"])
    assert not torch.equal(history[0]["target"]["0.weight"], history[-1]["target"]["0.weight"])


def test_probes_send_no_gradient_to_the_lam(args):
    """What the probes must predict does not change what the LAM learns; the labels do."""
    args.lam.labeled_loss_coef = 0.0
    data = Dataset(args.data, args)
    other = Dataset(args.data, args)
    other.actions = -other.actions
    other.states = other.states * 3 + 1
    same = train_briefly(args, data)[-1]
    changed = train_briefly(args, other)[-1]
    assert all(torch.equal(value, changed["lam"][name]) for name, value in same["lam"].items())
    assert not torch.equal(same["probes"]["action.weight"], changed["probes"]["action.weight"])
    args.lam.labeled_loss_coef = 1.0
    different = train_briefly(args, other)[-1]
    assert not torch.equal(same["lam"]["encoder.0.weight"], different["lam"]["encoder.0.weight"])


def test_relabelling_sees_the_change(args):
    """lam(obs, next_obs) is the IDM's answer to the two embeddings, and another one where nothing changes."""
    data = Dataset(args.data, args)
    lam = small_lam()
    obs, next_obs = data.observe_pair(data.transitions(data.shuffle)[:8])
    z = lam(obs, next_obs)
    e1, e2 = (lam.encoder(x).flatten(1) for x in (obs, next_obs))
    assert z.shape == (8, 16) and torch.allclose(z, lam.infer(e1, e2), atol=1e-5)
    assert not torch.allclose(lam(obs, obs), z, atol=1e-3) and lam.predict(e1, z).shape == e1.shape


def test_the_decoder_decodes_what_the_actor_says(args):
    """On labelled transitions, true actions come of the frozen actor's answers."""
    data = Dataset(args.data, args)
    index = data.transitions(data.shuffle[:2])
    torch.manual_seed(0)
    output = torch.nn.Linear(9 * 64 * 64, args.lam.latent_action_dim)
    actor = torch.nn.Sequential(torch.nn.Flatten(), output).requires_grad_(False)
    args.decoder.num_updates = 200
    args.decoder.learning_rate = 1e-2
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
        assert [rates[0], rates[9], rates[10], rates[110]] == pytest.approx([0.1, 1, 1, 0])
        assert all(a >= b for a, b in zip(rates[9:], rates[10:])) and rates[60] == pytest.approx(0.5)
    assert learning_rate(1.0, 0, 0, 10, "cosine") == 1
    assert [learning_rate(1.0, step, 1.6, 10, "cosine") for step in range(2)] == [
        1 / 1.6,
        1,
    ]  # never above the peak


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
    assert warped.min() >= -1 and warped.max() <= 1
    assert (warped[~identity] != images[~identity]).float().mean() > 0.9

    shift = torch.eye(3).repeat(2, 1, 1)
    shift[:, 0, 2] = torch.tensor([14.0, -14.0])
    shift[:, 1, 2] = torch.tensor([-5.0, 3.0])
    columns = (torch.arange(64) + 14).clamp(0, 63)
    rows = (torch.arange(64) - 5).clamp(0, 63)
    assert torch.allclose(augment(images[:2], shift)[0], images[0][:, rows][:, :, columns], atol=1e-4)
    gray = torch.full((64, 9, 64, 64), 0.25)  # no black corners: an even picture stays even
    assert torch.allclose(augment(gray, homographies[:64]), gray, atol=1e-5)


def test_augmentation_ranges():
    """Shifts up to 14 pixels, rotations up to 90 degrees, corners moved at most half way inwards."""
    homographies = random_homographies(4000, torch.Generator().manual_seed(1))
    linear = homographies[:, :2, :2]
    shift = homographies[:, :2, 2]
    projective = homographies[:, 2, :2]
    rigid = (projective == 0).all(-1) & torch.isclose(torch.linalg.det(linear), torch.tensor(1.0), atol=1e-4)
    assert shift[rigid].norm(dim=-1).max() <= 14 * 2**0.5 + 1e-4 and shift[rigid].abs().max() > 13
    angles = torch.atan2(linear[rigid, 1, 0], linear[rigid, 0, 0])
    assert angles.abs().max() <= torch.pi / 2 + 1e-4 and angles.abs().max() > 1.5
    assert 0.3 < rigid.float().mean() < 0.75  # the others have a perspective


# ---- The held-out probe ------------------------------------------------------------------------------------


def test_ridge_regression_and_errors():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 8, generator=generator)
    weight = torch.randn(8, 3, generator=generator)
    actions = z @ weight + 5
    predict = laom_supervised.fit_ridge(z[:400] + 100, actions[:400])
    errors = laom_supervised.action_errors("probe", "here", predict(z[400:] + 100), actions[400:])
    assert errors.keys() == {"probe_mse/here", "probe_mse_over_var/here"}
    assert errors["probe_mse_over_var/here"] < 1e-4
    mean = laom_supervised.action_errors("probe", "here", actions.mean(0).expand(500, 3), actions)
    assert mean["probe_mse_over_var/here"] == pytest.approx(1) and mean["probe_mse/here"] > 1
    assert laom_supervised.action_errors("probe", "here", actions, torch.full((500, 3), torch.nan)) == {}


def test_a_rehearsal_may_see_labels_that_do_not_vary():
    """Its few transitions are the first ones, where an agent may stand still."""
    weight = laom_supervised.weight_of_labels(laom_supervised.LAMArgs(), "walker-run", torch.zeros(64, 6))
    assert 0 < weight < float("inf")


def test_effective_rank():
    z = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    assert laom_supervised.effective_rank(z) == pytest.approx(8, rel=0.05)
    assert laom_supervised.effective_rank(z[:, :1] @ torch.ones(1, 8)) == pytest.approx(1)
