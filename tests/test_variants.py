"""variants/: the quantisers of Figures 5 and 12c, what they learn, and what a run leaves."""

import json

import laom_fsq
import lapo_vq
import lives
import pytest
import torch
from conftest import Recorder, command, parse, read_records


def test_the_paper_preset_is_the_original():
    args = lapo_vq.parse_args([])
    assert args.lam.future_obs_offset == 1 and args.lam.latent_action_dim == 128
    assert args.lam.commitment_coef == 0.05
    fsq = laom_fsq.parse_args([])
    assert fsq.lam.future_obs_offset == 10 and fsq.lam.latent_action_dim == 8192


def test_dimensions_that_are_no_codes(short_file):
    with pytest.raises(SystemExit, match="error: --lam.latent-action-dim 48"):
        parse("variants/lapo_vq.py", short_file, lam__latent_action_dim=48)


def test_vq_learns_codes_and_revives_dead_ones():
    torch.manual_seed(0)
    quantizer, generator, centers = lapo_vq.VQ(), torch.Generator().manual_seed(0), torch.randn(24, 16)

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
    assert (
        torch.cdist(quantized.detach().unflatten(1, (8, 16)).flatten(0, 1), entries).min(1).values.max()
        < 0.02
    )
    (quantized * torch.arange(128)).sum().backward()
    assert torch.equal(z.grad, torch.arange(128.0).expand(128, 128))  # straight through

    quantizer.codebooks[0, 5], quantizer.sums[0, 5], quantizer.idle[0, 5] = (
        100.0,
        100.0,
        0,
    )  # an entry far from everything
    for _ in range(102):
        quantizer.update(batch(), generator)
    assert quantizer.codebooks[0, 5].abs().max() < 10


def test_vq_of_two_ranks_is_that_of_one_process(forks, tmp_path):
    """Each sees the codes of both; dead entries become what the first rank draws."""
    generator = torch.Generator().manual_seed(1)
    batches = torch.randn(3, 32, 64, generator=generator)
    torch.save(batches, tmp_path / "batches.pt")
    port = lives.free_port()
    ranks = [
        lives.FORKS.Process(target=lives.update_codes, args=(rank, 2, port, tmp_path)) for rank in range(2)
    ]
    for process in ranks:
        process.start()
    quantizer, generator = lapo_vq.VQ(), torch.Generator().manual_seed(0)
    for batch in batches:
        quantizer.update(batch, generator)
    assert [lives.end(process) for process in ranks] == [0, 0]
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"codes_{rank}.pt").items():
            torch.testing.assert_close(value, quantizer.state_dict()[name])


def test_fsq_of_embeddings(short_file):
    """What the FDM and the actor get is -1 or 1, and the encoder learns through it."""
    args = parse("variants/laom_fsq.py", short_file)
    data = laom_fsq.Dataset(args.data, args)
    recorder = Recorder(3)
    lam = laom_fsq.train_lam(args, data, "lam", recorder)
    z = lam(*data.observe_pair(torch.arange(8)))
    assert z.abs().sub(1).abs().max() < 1e-6 and len(z.unique()) == 2
    first, last = (recorder.history[i]["lam"]["encoder.0.weight"] for i in (0, -1))
    assert not torch.equal(first, last)


@pytest.mark.parametrize("script", lives.VARIANTS)
def test_a_run_leaves_everything(script, unbroken, short_file):
    folder = unbroken(script, command(script, short_file))()
    names = {path.name for path in folder.iterdir()}
    assert names >= {script.split("/")[1], "args.json", "metrics.jsonl", "results.json", "checkpoint.pt"}
    assert names >= {"lam.pt", "actor.pt", "decoder_2.pt", "rollout_2.gif"}
    results, records = json.loads((folder / "results.json").read_text()), read_records(folder)
    assert results["latent_actions"]["action_probe_mse_over_var/seen_videos"] > 0
    assert results["budgets"]["2"]["action_mse_over_var"] > 0
    lam = [record for record in records if record["stage"] == "lam"]
    assert lam[-1]["lam/loss"] < lam[0]["lam/loss"]
    if script == "variants/lapo_vq.py":
        for record in lam:
            assert 1 <= record["lam/code_perplexity"] <= 64 and 0 < record["lam/code_usage"] <= 1
            assert record["lam/loss"] >= record["lam/reconstruction_loss"] > 0
