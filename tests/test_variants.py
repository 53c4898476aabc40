"""variants/lapo_vq.py: its codes, what they learn, and that ranks agree on them."""

import lapo_vq
import lives
import pytest
import torch
from conftest import parse, read_records


def test_dimensions_that_are_no_codes(short_file):
    with pytest.raises(SystemExit, match="error: --lam.latent-action-dim 48"):
        parse("variants/lapo_vq.py", short_file, lam__latent_action_dim=48)


def test_vq_learns_codes_and_revives_dead_ones():
    torch.manual_seed(0)
    quantizer = lapo_vq.VQ()
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(24, 16)

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
    vectors = quantized.detach().unflatten(1, (8, 16)).flatten(0, 1)
    assert torch.cdist(vectors, entries).min(1).values.max() < 0.02
    (quantized * torch.arange(128)).sum().backward()
    assert torch.equal(z.grad, torch.arange(128.0).expand(128, 128))  # straight through

    quantizer.codebooks[0, 5] = 100.0  # an entry far from everything
    quantizer.sums[0, 5] = 100.0
    quantizer.idle[0, 5] = 0
    for _ in range(102):
        quantizer.update(batch(), generator)
    assert quantizer.codebooks[0, 5].abs().max() < 10


def test_vq_of_two_ranks_is_that_of_one_process(forks, tmp_path):
    """Each sees the codes of both; dead entries become what the first rank draws."""
    generator = torch.Generator().manual_seed(1)
    batches = torch.randn(3, 32, 64, generator=generator)
    torch.save(batches, tmp_path / "batches.pt")
    port = lives.free_port()
    ranks = []
    for rank in range(2):
        ranks.append(lives.FORKS.Process(target=lives.update_codes, args=(rank, 2, port, tmp_path)))
        ranks[-1].start()
    quantizer = lapo_vq.VQ()
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        quantizer.update(batch, generator)
    assert [lives.end(process) for process in ranks] == [0, 0]
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"codes_{rank}.pt").items():
            torch.testing.assert_close(value, quantizer.state_dict()[name])


def test_a_run_logs_its_codes(finished):
    lam = [record for record in read_records(finished("variants/lapo_vq.py")) if record["stage"] == "lam"]
    for record in lam:
        assert 1 <= record["lam/code_perplexity"] <= 64 and 0 < record["lam/code_usage"] <= 1
        assert record["lam/loss"] >= record["lam/reconstruction_loss"] > 0
