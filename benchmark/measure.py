"""Measures what the first stage of a run has learned: how good its latent actions are, and what its embedding holds.

    python benchmark/measure.py runs/<run>                       # every LAM (or IDM) of the run
    python benchmark/measure.py runs/<run>/lam_8.pt              # one of them
    python benchmark/measure.py runs/<run> --twin-data data/twins/cheetah-run__vanilla__val.hdf5 --reconstruct

The training scripts run this at the end of stage 1 and put what it says into results.json; it can be run again at any time, on any
run and with other files. It loads the script as it ran from the run's folder, so a variant is measured like a method. Beside the
weights <name>.pt it writes <name>.json and, with --reconstruct, <name>.png; for a LAM that predicts pixels, prediction.png.

<kind>_mse/<videos>, <kind>_mse_over_var/<videos> (1 is what the mean action reaches), …_per_dimension/<videos>: error of the true
action, at k = 1, without augmentation, on at most 50,000 transitions. Kinds: action_probe, ridge regression z → action (penalty
1e-4 of z's mean variance) fitted on four fifths of the trajectories; blind_probe, the same from z of (obs, obs), for which the IDM
has not seen what comes next: an expert's action can be guessed from obs alone, and what z owes to the change is the gap between
the two (none for a good LAM either, where the next observation follows from obs, as an expert's without noise does); action_head
and idm, the network's own answer, learned from the labelled trajectories (Figure 9a). Videos: seen_videos, the last fifth of the
trajectories in the fixed shuffle whose beginning is labelled; unseen_videos, those of the evaluation file; those of each twin,
which is no_distractors if it has none. Where the labels are of another task than the videos, the trajectories are those of the
labels' task.

Without labels, on the evaluation file: effective_rank of z (participation ratio of its principal components);
shuffled_loss_ratio and blind_loss_ratio, the FDM's error with other transitions' z, or with z of (obs, obs), over that with their
own (1: it ignores z, or z says nothing of the change); copy_loss_ratio, the error with their own over that of predicting no change
(above 1: the LAM has not learned to predict yet; for LAPO the two older frames move up, LAOM's embeddings are the encoder's, not
the slow copy's); distractor_share/<videos>, the share of Var(z) that changes between the evaluation file and its twin, so with the
distractors alone: ½ E|z - z'|² / Var(z), each about its own mean (0: z does not depend on the distractors; 1: on nothing else).
"""

import ctypes
import dataclasses
import functools
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from tqdm import tqdm


@dataclasses.dataclass
class Args:
    path: tyro.conf.Positional[Path]
    """a run's folder, or one file of its weights, lam*.pt or idm*.pt"""
    eval_data: tuple[str, ...] = ()
    """trajectories with unseen videos; the default is the run's own"""
    twin_data: tuple[str, ...] = ()
    """the trajectories of the evaluation data under other distractors or none (collect_data.py --rerender)"""
    reconstruct: bool = False
    """train a pixel decoder on the frozen embedding and draw what it sees (Figure 11)"""
    num_updates: int = 1000
    """updates of the pixel decoder, of 64 observations each; the paper does not say how many"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """where the networks live"""


def load_method(folder: Path):
    """The run's script as it ran, as a module."""
    scripts = sorted(folder.glob("*.py"))
    if len(scripts) != 1 or not (folder / "args.json").exists():
        raise SystemExit(f"error: {folder} is not a run's folder: a script and args.json are in it")
    spec = importlib.util.spec_from_file_location(scripts[0].stem, scripts[0])
    sys.modules[spec.name] = method = importlib.util.module_from_spec(spec)
    for name in ("RANK", "WORLD_SIZE"):  # this program is one process, even if one of several has started it
        os.environ.pop(name, None)
    spec.loader.exec_module(method)
    return method


def load_network(method, args, weights: Path, action_dim: int) -> nn.Module:
    """The run's LAM or IDM, frozen."""
    kind, cfg = (method.LAM, args.lam) if hasattr(method, "LAM") else (method.IDM, args.idm)
    labelled = [action_dim] if "action_dim" in inspect.signature(kind).parameters else []
    network = kind(cfg, args.frame_stack, *labelled).to(args.device, memory_format=torch.channels_last).requires_grad_(False)
    network.load_state_dict(torch.load(weights, map_location=args.device, weights_only=True))
    return network


def choose(index: torch.Tensor) -> torch.Tensor:
    """At most 50,000 of the indices, the same ones for files of the same trajectories."""
    return index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:50_000]]


def measure(method, args, network: nn.Module, data, eval_data, twins: list) -> dict:
    held_out, fit = np.split(data.shuffle[::-1].copy(), [max(1, data.num_trajectories // 5)])  # labelled trajectories come last
    sets = {"fit": (data, fit), "seen_videos": (data, held_out), "unseen_videos": (eval_data, None)}
    sets |= {"no_distractors" if twin.difficulty == "vanilla" else f"twin:{twin.paths[0]}": (twin, None) for twin in twins}
    is_lam, results, probes = hasattr(method, "LAM"), {}, {}
    pairs = {"action_probe": (method.OBS, method.NEXT_OBS), "blind_probe": (method.OBS, method.OBS)}
    for name, (source, trajectories) in sets.items():
        index = choose(source.transitions(trajectories))
        actions = source.actions[index].to(args.device)
        infer = functools.partial(method.infer_all, args, network, source, index)
        if name == "fit":
            probes = {kind: fit_probe(infer(*pair), actions) for kind, pair in pairs.items()} if is_lam else {}
            continue
        z = infer(*pairs["action_probe"])
        predictions = {kind: probe(z if kind == "action_probe" else infer(*pairs[kind])) for kind, probe in probes.items()}
        predictions |= {} if is_lam else {"idm": z}
        if hasattr(network, "action_head"):
            predictions["action_head"] = network.action_head(z)
        for kind, prediction in predictions.items():
            mse, variance = (prediction - actions).square().mean(0), actions.var(0, unbiased=False)
            results[f"{kind}_mse/{name}"] = mse.mean().item()
            results[f"{kind}_mse_over_var/{name}"] = (mse.mean() / variance.mean()).item()
            results[f"{kind}_mse_over_var_per_dimension/{name}"] = (mse / variance).tolist()
        if name == "unseen_videos":
            z_unseen, centered = z - z.mean(0), z[:4096] - z[:4096].mean(0)
            gram = centered @ centered.T
            results["effective_rank"] = (gram.trace() ** 2 / gram.square().sum().clamp(min=1e-30)).item()
            if is_lam:
                errors = functools.partial(prediction_errors, network)
                errors = method.infer_all(args, errors, source, index, *pairs["action_probe"]).mean(0).tolist()
                own, others, blind, copy = errors
                results |= {"shuffled_loss_ratio": others / own, "blind_loss_ratio": blind / own, "copy_loss_ratio": own / copy}
        elif name != "seen_videos":  # a twin
            z = z - z.mean(0)
            share = (z - z_unseen).square().mean() / (z.square().mean() + z_unseen.square().mean())
            results[f"distractor_share/{name}"] = share.item()
    return results


def fit_probe(z: torch.Tensor, actions: torch.Tensor) -> Callable:
    """Ridge regression from z (N, Z) to actions (N, A), as a function."""
    z_mean, action_mean = z.mean(0), actions.mean(0)
    centered = (z - z_mean).double()
    gram = centered.T @ centered
    gram.diagonal().add_(1e-4 * gram.diagonal().mean() + 1e-12)
    weight = torch.linalg.solve(gram, centered.T @ (actions - action_mean).double()).float()
    return lambda z: (z - z_mean) @ weight + action_mean


def prediction_errors(lam: nn.Module, obs: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    """The FDM's MSE with each transition's own z, with another's, with z of (obs, obs), and that of no change, (1, 4): LAPO's in
    pixels, where the two older frames of next_obs are frames of obs, LAOM's in its embedding."""
    if hasattr(lam, "decoder"):
        target, no_change = next_obs, torch.cat([obs[:, 3:], obs[:, -3:]], 1)
        z, blind_z, predict = lam(obs, next_obs), lam(obs, obs), functools.partial(lam.predict, lam.encoder(obs))
    else:
        no_change, target = (lam.encoder(x).flatten(1) for x in (obs, next_obs))
        z, blind_z, predict = lam.infer(no_change, target), lam.infer(no_change, no_change), functools.partial(lam.fdm, no_change)
    predictions = [*map(predict, (z, z.roll(1, 0), blind_z)), no_change]
    return torch.stack([F.mse_loss(x, target) for x in predictions])[None]


class EmbeddingDecoder(nn.Sequential):
    """The encoder's mirror: (B, channels_in, 8, 8) → images (B, channels_out, 64, 64) in [-1, 1]."""

    def __init__(self, method, channels_in: int, scale: int, num_res_blocks: int, channels_out: int):
        blocks = []
        for channels in (32 * scale, 32 * scale, 16 * scale):
            blocks.append(nn.ConvTranspose2d(channels_in, channels, 2, stride=2))
            blocks += [method.ResidualBlock(channels) for _ in range(num_res_blocks)]
            channels_in = channels
        super().__init__(*blocks, nn.GELU(), nn.Conv2d(channels_in, channels_out, 1), nn.Tanh())
        self.apply(method.init_weights)


def reconstruct(method, args, encoder: nn.Module, data, eval_data, num_updates: int, path: Path):
    """Figure 11: a pixel decoder learns to see through the frozen embedding; above true, below decoded frames of unseen videos."""
    torch.manual_seed(args.seed)
    scale = encoder.channels_out // 32
    decoder = EmbeddingDecoder(method, encoder.channels_out, scale, 1, 3 * args.frame_stack)
    decoder = decoder.to(args.device, memory_format=torch.channels_last)
    optim = torch.optim.Adam(decoder.parameters(), lr=1e-3, fused=True)
    index = data.transitions()
    for step in (bar := tqdm(range(num_updates), desc="reconstruction", unit="update")):
        obs = method.to_input(data.observations(method.batch_at(index, 64, args.seed, step), args.frame_stack), args.dtype)
        optim.param_groups[0]["lr"] = method.learning_rate(1e-3, step, 0, num_updates, "cosine")
        with args.autocast():
            loss = F.mse_loss(decoder(encoder(obs)).float(), obs.float())
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    index = eval_data.transitions()[torch.linspace(0, len(eval_data.transitions()) - 1, 12).long()]
    true = method.to_input(eval_data.observations(index, args.frame_stack), args.dtype)
    with torch.no_grad(), args.autocast():
        draw(path, true, decoder(encoder(true)))


def draw_predictions(method, args, lam: nn.Module, eval_data, path: Path):
    """12 observations with unseen videos, what really comes next, and what a LAM that predicts pixels says."""
    index = eval_data.transitions()
    stack = eval_data.observations(index[torch.linspace(0, len(index) - 1, 12).long()], args.frame_stack, extra=1)
    obs, next_obs = (method.to_input(stack[:, view], args.dtype) for view in (method.OBS, method.NEXT_OBS))
    with torch.no_grad(), args.autocast():
        draw(path, obs, next_obs, lam.predict(lam.encoder(obs), lam(obs, next_obs)))


def draw(path: Path, *rows: torch.Tensor):
    """The newest frames of images (12, 9, 64, 64), one row each."""
    rows = torch.stack([images[:, -3:].float() for images in rows])
    rows = rows.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).cpu().numpy()
    imageio.imwrite(path, rows.repeat(3, 0).repeat(3, 1))


def main(measure_args: Args):
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc keeps freed memory, as in the scripts
        _ = mallopt(-4, 0), mallopt(-1, 2**31 - 1)  # M_MMAP_MAX: large blocks come from the heap; M_TRIM_THRESHOLD: its end stays
    path, is_run = measure_args.path, measure_args.path.is_dir()
    folder = path if is_run else path.parent
    files = sorted([*path.glob("lam*.pt"), *path.glob("idm*.pt")]) if is_run else [path]
    if not files or not all(file.exists() and file.name.startswith(("lam", "idm")) for file in files):
        raise SystemExit(f"error: {path} is no finished first stage: give a run's folder with lam*.pt or idm*.pt, or one of these")
    method = load_method(folder)
    args = method.parse_args(["--resume", str(folder)])
    twin_data = measure_args.twin_data or args.twin_data
    args = dataclasses.replace(args, eval_data=measure_args.eval_data or args.eval_data, device=measure_args.device)
    data, labeled_data, eval_data = method.load_data(args)
    probed = data if data.task == labeled_data.task else labeled_data  # cross-embodied: the probe is for the labels' task
    twins = [method.Dataset((path,), args.device) for path in twin_data]
    for twin in twins:
        if not torch.equal(twin.actions.nan_to_num(), eval_data.actions.nan_to_num()) or len(twin.last) != len(eval_data.last):
            raise SystemExit(f"error: {twin.paths[0]} is no twin of {eval_data.paths[0]}: its trajectories are others")
    for weights in files:
        network = load_network(method, args, weights, labeled_data.actions.shape[1])
        results = measure(method, args, network, probed, eval_data, twins)
        print(f"\n{weights}")
        for name, value in results.items():
            print(f"{name:62}", *(f"{x:.3f}" for x in (value if isinstance(value, list) else [value])))
        method.write_whole(weights.with_suffix(".json"), lambda file: file.write(json.dumps(results, indent=2).encode()))
        if hasattr(network, "decoder"):
            draw_predictions(method, args, network, eval_data, folder / "prediction.png")
        if measure_args.reconstruct:
            reconstruct(method, args, network.encoder, probed, eval_data, measure_args.num_updates, weights.with_suffix(".png"))
            print(weights.with_suffix(".png"))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:
        raise SystemExit(f"error: {str(error) or 'interrupted'}")
