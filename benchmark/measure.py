"""Measures more of what the first stage of a run has learned: latent actions, and what the embedding holds.

    python benchmark/measure.py runs/<run>                  # every LAM (or IDM) of the run
    python benchmark/measure.py runs/*laom* --only-missing  # those that are not measured yet
    python benchmark/measure.py runs/<run> --twin-data data/twins/cheetah-run__vanilla__val.hdf5 --reconstruct

It EXECUTES the script that lies in a run's folder, so that a variant is measured like a method: measure only
runs that you trust. Beside the weights <name>.pt it writes <name>.json, where table.py and plot.py find it,
with --reconstruct <name>.png, and for a LAM that predicts pixels prediction.png.

What the script itself has measured stands in results.json. Here, on the evaluation file, without labels:

shuffled_loss_ratio: the FDM's error with other transitions' z over that with their own. 1: it ignores z.
blind_loss_ratio: the same with z of (obs, obs). 1: z says nothing of the change.
copy_loss_ratio: the FDM's error over that of predicting no change, which for LAPO moves the older frames up.
    Above 1: the LAM has not learned to predict.

A twin of the evaluation file (collect_data.py --rerender) has the same trajectories without distractors:

<measure>/no_distractors: the script's own measures on the twin.
distractor_share/no_distractors: the share of Var(z) that changes with the distractors alone, from 0 to 1. It
    is ½ E|z - z'|² / Var(z), with z and the twin's z' each about its own mean.

What a script must define: LAM or IDM, a network (obs, future_obs) → z or action with an `encoder`; a LAM also
predict(obs_embedding, z), and infer(obs_embedding, future_embedding) unless it has a pixel `decoder`;
start_process, load_args, load_data, Dataset, infer_some, and held_out_probe or held_out_error.
"""

import dataclasses
import functools
import importlib.util
import inspect
import json
import sys
from math import isfinite
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from torchvision.utils import save_image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the scripts are
import lapo

NUM_PICTURES = 12  # columns of a picture


@dataclasses.dataclass
class Args:
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """runs' folders; their scripts are executed: trust them"""
    twin_data: str | None = None
    """the evaluation trajectories without distractors (collect_data.py --rerender)"""
    reconstruct: bool = False  # train a pixel decoder on the embedding and draw what it sees (Figure 11)
    num_updates: int = 1000  # of the decoder, 64 observations each; the paper does not say how many
    only_missing: bool = False  # leave out what has been measured, and what has not finished stage 1
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where the networks live


# ---- The run: its script as a module, its network ----------------------------------------------------------


def load_method(folder: Path):
    """The run's script as it ran, as a module."""
    (script,) = folder.glob("*.py")
    spec = importlib.util.spec_from_file_location(str(script), script)
    method = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = method  # where dataclasses look for their types
    spec.loader.exec_module(method)
    return method


def load_network(method, args, weights: Path, action_dim: int) -> nn.Module:
    """The run's LAM or IDM, frozen."""
    is_lam = hasattr(method, "LAM")
    kind = method.LAM if is_lam else method.IDM
    sizes = [args.lam if is_lam else args.idm, args.frame_stack]
    if "action_dim" in inspect.signature(kind).parameters:
        sizes.append(action_dim)
    network = kind(*sizes).to(args.device, memory_format=torch.channels_last)
    network.load_state_dict(torch.load(weights, map_location=args.device, weights_only=True))
    return network.requires_grad_(False)


# ---- Measures ----------------------------------------------------------------------------------------------


def measure(method, args, network: nn.Module, data, eval_data, twin) -> dict[str, float]:
    results = loss_ratios(method, args, network, eval_data) if hasattr(method, "LAM") else {}
    if twin is None:
        return results
    held_out = method.held_out_probe if hasattr(method, "LAM") else method.held_out_error
    for name, value in held_out(args, network, data, twin).items():
        measure, _, videos = name.partition("/")
        if videos == "unseen_videos":  # those of its evaluation data, here the twin
            results[f"{measure}/no_distractors"] = value
    z, *_ = method.infer_some(args, network, eval_data, eval_data.shuffle)
    twin_z, *_ = method.infer_some(args, network, twin, twin.shuffle)
    results["distractor_share/no_distractors"] = distractor_share(z, twin_z)
    return results


def loss_ratios(method, args, lam: nn.Module, data) -> dict[str, float]:
    """Whether the FDM needs z, and whether it predicts at all."""
    errors = functools.partial(prediction_errors, lam)
    by_batch, *_ = method.infer_some(args, errors, data, data.shuffle)
    own, others, blind, no_change = by_batch.mean(0)
    return {
        "shuffled_loss_ratio": (others / own).item(),
        "blind_loss_ratio": (blind / own).item(),
        "copy_loss_ratio": (own / no_change).item(),
    }


def prediction_errors(lam: nn.Module, obs: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    """The FDM's MSE with its own z, with another transition's, with z of (obs, obs), and that of no change.

    (1, 4): LAPO's in pixels, where the two older frames of next_obs are frames of obs. LAOM's in embeddings
    of the encoder; its slow copy has nearly reached it when the learning rate has fallen to zero.
    """
    if hasattr(lam, "decoder"):
        target = next_obs
        no_change = torch.cat([obs[:, 3:], obs[:, -3:]], 1)
        z, blind_z = lam(obs, next_obs), lam(obs, obs)
        embedding = lam.encoder(obs)
    else:
        target = lam.encoder(next_obs).flatten(1)
        embedding = no_change = lam.encoder(obs).flatten(1)
        z, blind_z = lam.infer(embedding, target), lam.infer(embedding, embedding)
    errors = [
        F.mse_loss(lam.predict(embedding, z), target),
        F.mse_loss(lam.predict(embedding, z.roll(len(z) // 2, 0)), target),  # half a batch away
        F.mse_loss(lam.predict(embedding, blind_z), target),
        F.mse_loss(no_change, target),
    ]
    return torch.stack(errors)[None]


def distractor_share(z: torch.Tensor, twin_z: torch.Tensor) -> float:
    """The share of Var(z) that is the distractors' doing; both (N, Z), of the same transitions."""
    z = z - z.mean(0)
    twin_z = twin_z - twin_z.mean(0)
    share = (twin_z - z).square().mean() / (twin_z.square().mean() + z.square().mean())
    return share.item()


# ---- Pictures ----------------------------------------------------------------------------------------------


def reconstruct(method, args, encoder: nn.Module, data, eval_data, num_updates: int, path: Path):
    """Figure 11: a pixel decoder learns to see through a frozen embedding; draws true and decoded frames."""
    torch.manual_seed(args.seed)
    sizes = args.lam if hasattr(method, "LAM") else args.idm
    decoder = lapo.PixelDecoder(sizes, encoder.channels_out, 3 * args.frame_stack).apply(lapo.init_weights)
    decoder = decoder.to(args.device, memory_format=torch.channels_last)
    optim = torch.optim.Adam(decoder.parameters(), lr=1e-3, fused=True)
    index = data.transitions(data.shuffle)
    for step in tqdm(range(num_updates), desc="reconstruction", unit="update"):
        optim.param_groups[0]["lr"] = lapo.learning_rate(1e-3, step, 0, num_updates, "cosine")
        obs = data.observe(index[lapo.batch_rows(len(index), 64, args.seed, step)])
        with args.autocast():
            decoded = decoder(encoder(obs))
        loss = F.mse_loss(decoded.float(), obs.float())
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()

    true = eval_data.observe(pictured(eval_data))
    with torch.no_grad(), args.autocast():
        decoded = decoder(encoder(true))
    draw(path, true, decoded)


def draw_predictions(args, lam: nn.Module, eval_data, path: Path):
    """Observations with unseen videos, what really comes next, and what a LAM that predicts pixels says."""
    obs, next_obs = eval_data.observe_pair(pictured(eval_data))
    with torch.no_grad(), args.autocast():
        prediction = lam.predict(lam.encoder(obs), lam(obs, next_obs))
    draw(path, obs, next_obs, prediction)


def pictured(data) -> torch.Tensor:
    """Transitions from the first to the last of the data: int64 (12,)."""
    index = data.transitions(data.shuffle)
    return index[torch.linspace(0, len(index) - 1, NUM_PICTURES).long()]


def draw(path: Path, *rows: torch.Tensor):
    """The newest frames of images (12, 9, 64, 64) in [-1, 1], three times as large, one row each."""
    frames = torch.cat([images[:, -3:].float() for images in rows])
    frames = F.interpolate(frames.add(1).div(2), scale_factor=3)
    save_image(frames, path, nrow=NUM_PICTURES, padding=0)


# ---- Main --------------------------------------------------------------------------------------------------


def find_weights(folder: Path, own: Args) -> list[Path]:
    """The weights of a run's LAMs or IDMs that are to be measured."""
    files = sorted([*folder.glob("lam*.pt"), *folder.glob("idm*.pt")])
    if own.only_missing:
        return [file for file in files if not is_measured(file, own)]
    if not files:
        raise SystemExit(f"error: {folder} has no lam*.pt or idm*.pt: its first stage has not finished")
    return files


def is_measured(weights: Path, own: Args) -> bool:
    """Whether what is asked for lies beside the weights."""
    path = weights.with_suffix(".json")
    measures = path.read_text() if path.exists() else ""
    has_twin = "distractor_share" in measures or not own.twin_data
    is_drawn = weights.with_suffix(".png").exists() or not own.reconstruct
    return bool(measures) and has_twin and is_drawn


def load_twin(method, args, path: str, eval_data):
    """The twin of the evaluation data, if it is: the same states and actions at the same times."""
    twin = method.Dataset((path,), args)
    for name in ("last", "actions", "states"):
        own, other = getattr(eval_data, name), getattr(twin, name)
        if not torch.equal(own.nan_to_num(), other.nan_to_num()):
            raise SystemExit(f"error: {path} is no twin of {eval_data.paths[0]}: its trajectories are others")
    if twin.difficulty != "vanilla":
        print(f"warning: {path} shows distractors ({twin.difficulty}), which no_distractors does not say")
    return twin


def measure_run(folder: Path, own: Args):
    """Measures a run's LAMs or IDMs."""
    files = find_weights(folder, own)
    if not files:
        return
    method = load_method(folder)
    args = dataclasses.replace(method.load_args(folder / "args.json"), device=own.device)
    method.start_process(args)
    data, labeled_data, eval_data = method.load_data(args)
    twin = load_twin(method, args, own.twin_data, eval_data) if own.twin_data else None
    for weights in files:
        network = load_network(method, args, weights, labeled_data.actions.shape[1])
        write_measures(weights, measure(method, args, network, labeled_data, eval_data, twin))
        if hasattr(network, "decoder"):
            draw_predictions(args, network, eval_data, folder / "prediction.png")
        if own.reconstruct:
            picture = weights.with_suffix(".png")
            reconstruct(method, args, network.encoder, data, eval_data, own.num_updates, picture)
            print(picture)


def write_measures(weights: Path, results: dict[str, float]):
    """Prints them, and puts them beside the weights, with those of before, whole or not at all."""
    print(f"\n{weights}")
    for name, value in results.items():
        print(f"{name:62} {value:.3f}")
    path = weights.with_suffix(".json")
    before = json.loads(path.read_text()) if path.exists() else {}
    results = {name: value if isfinite(value) else None for name, value in results.items()}
    partial = weights.with_suffix(".json.partial")
    partial.write_text(json.dumps(before | results, indent=2))
    partial.replace(path)


def main(own: Args):
    for folder in own.paths:
        measure_run(folder, own)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        raise SystemExit("error: interrupted; with --only-missing the same command goes on")
