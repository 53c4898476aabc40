"""Measures what the first stage of a run has learned: its latent actions, and what its embedding holds.

    python benchmark/measure.py runs/<run>                  # every LAM (or IDM) of the run
    python benchmark/measure.py runs/<run>/lam_8.pt         # one of them
    python benchmark/measure.py runs/*laom* --only-missing  # those of several runs that are not measured yet
    python benchmark/measure.py runs/<run> --twin-data data/twins/cheetah-run__vanilla__val.hdf5 --reconstruct

It EXECUTES the script that lies in a run's folder, so that a variant is measured like a method: measure only
runs that you trust. Beside the weights <name>.pt it writes <name>.json, where table.py and plot.py find it,
with --reconstruct <name>.png, and for a LAM that predicts pixels prediction.png in the run's folder. What
fails does not stop the others: the end says it in a line each, and the exit status is 1.

<kind>_mse/<videos>, <kind>_mse_over_var/<videos> (1 is what the mean action reaches) and
<kind>_mse_over_var_per_dimension/<videos>: error of the true action, at k = 1, without augmentation, on at
most 50,000 transitions.
Kinds: action_probe, ridge regression z → action fitted on trajectories without labels; blind_probe, the
same from z of (obs, obs), for which the IDM has not seen what comes next: an expert's action can be guessed
from obs alone, and what z owes to the change is the gap between the two (none for a good LAM either, where
the next observation follows from obs, as an expert's without noise does); action_head and idm, the network's
own answer, learned from the labelled trajectories (Figure 9a), blind_idm that to (obs, obs).
perturbation_r2/<videos>, plan_r2/<videos>, blind_…: where noise was added to the expert's actions, how much
of it z tells beyond what the expert's action tells (0 nothing, 1 all), and R² of the expert's action from z.
Videos: seen_videos, the last fifth of the trajectories in the fixed shuffle whose beginning is labelled;
unseen_videos, those of the evaluation file; those of each twin, which is no_distractors if it has none.
Where the labels are of another task than the videos, the trajectories are those of the labels' task.

Without labels, on the evaluation file: effective_rank of z (participation ratio of its principal components);
shuffled_loss_ratio and blind_loss_ratio, the FDM's error with other transitions' z, or with z of (obs, obs),
over that with their own (1: it ignores z, or z says nothing of the change); copy_loss_ratio, the error with
their own over that of predicting no change (above 1: the LAM has not learned to predict yet; for LAPO the two
older frames move up, LAOM's embeddings are the encoder's, not the slow copy's); distractor_share/<videos>,
the share of Var(z) that changes between the evaluation file and its twin, so with the distractors alone:
½ E|z - z'|² / Var(z), each about its own mean (0: z does not depend on the distractors; 1: on nothing else).

What a script must define: LAM or IDM, a network (obs, future_obs) → z or action with an `encoder`; a LAM also
predict(obs_embedding, z), and infer(obs_embedding, future_embedding) unless it has a pixel `decoder`;
parse_args, load_data, Dataset (with observe and observe_pair), split_for_probes, infer_some, action_errors,
fit_ridge, perturbation_errors, effective_rank; for --reconstruct batch_rows, learning_rate, init_weights,
ResidualBlock.
An `action_head` of the network is measured, too.
"""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import inspect
import json
import sys
import traceback
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from torchvision.utils import save_image
from tqdm import tqdm

NUM_PICTURES = 12  # columns of a picture


@dataclasses.dataclass
class Args:
    paths: tyro.conf.Positional[tuple[Path, ...]]
    """runs' folders, or weights in them, lam*.pt or idm*.pt; the runs' scripts are executed: trust them"""
    eval_data: tuple[str, ...] = ()
    """trajectories with unseen videos; the default is the run's own"""
    twin_data: tuple[str, ...] = ()
    """the trajectories of the evaluation data under other distractors or none (collect_data.py --rerender)"""
    reconstruct: bool = False
    """train a pixel decoder on the frozen embedding and draw what it sees (Figure 11)"""
    num_updates: int = 1000
    """updates of the pixel decoder, of 64 observations each; the paper does not say how many"""
    only_missing: bool = False
    """leave out weights whose measures lie beside them: of twins and reconstructed, if these are asked for"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """where the networks live"""


# ---- The run: its script as a module, its network ----------------------------------------------------------


def load_method(folder: Path, reconstruct: bool):
    """The run's script as it ran, as a module, if it defines what this program calls."""
    scripts = sorted(folder.glob("*.py"))
    if len(scripts) != 1 or not (folder / "args.json").exists():
        raise SystemExit("error: not a run's folder: a script and args.json are in it")
    try:
        json.loads((folder / "args.json").read_text())
    except ValueError as error:
        raise SystemExit(f"error: args.json is not whole: {error}")
    spec = importlib.util.spec_from_file_location(str(scripts[0]), scripts[0])
    method = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = method  # where dataclasses look for their types
    spec.loader.exec_module(method)

    name = scripts[0].name
    if not hasattr(method, "LAM") and not hasattr(method, "IDM"):
        raise SystemExit(f"error: {name} defines neither LAM nor IDM: benchmark/measure.py measures these")
    needed = ["parse_args", "load_data", "Dataset"]
    needed += ["split_for_probes", "infer_some", "action_errors"]
    needed += ["fit_ridge", "perturbation_errors"]
    if hasattr(method, "LAM"):
        needed.append("effective_rank")
    if reconstruct:
        needed += ["batch_rows", "learning_rate", "init_weights", "ResidualBlock"]
    refuse_without(needed, method, name)
    return method


def refuse_without(names: list[str], owner, what: str):
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        listed = ", ".join(missing)
        raise SystemExit(f"error: {what} does not define {listed}, which benchmark/measure.py needs")


def load_network(method, args, weights: Path, action_dim: int) -> nn.Module:
    """The run's LAM or IDM, frozen."""
    is_lam = hasattr(method, "LAM")
    kind = method.LAM if is_lam else method.IDM
    sizes = [args.lam if is_lam else args.idm, args.frame_stack]
    if "action_dim" in inspect.signature(kind).parameters:
        sizes.append(action_dim)
    network = kind(*sizes).to(args.device, memory_format=torch.channels_last)
    needed = ["encoder"]
    if is_lam:
        needed += ["predict"] if hasattr(network, "decoder") else ["predict", "infer"]
    refuse_without(needed, network, f"the {kind.__name__} of this run")
    try:
        network.load_state_dict(torch.load(weights, map_location=args.device, weights_only=True))
    except Exception as error:  # torch has many
        raise SystemExit(f"error: {weights.name} holds no whole weights of this network: {first_line(error)}")
    return network.requires_grad_(False)


# ---- Measures ----------------------------------------------------------------------------------------------


def measure(method, args, network: nn.Module, data, eval_data, twins: list) -> dict:
    """All measures of a network by name: numbers, and for each action dimension a list of them."""
    fitted, sources = method.split_for_probes(args, data, eval_data)
    for twin in twins:
        name = "no_distractors" if twin.difficulty == "vanilla" else f"twin:{twin.paths[0]}"
        sources[name] = (twin, sources["unseen_videos"][1])

    def blind_network(obs, _):
        return network(obs, obs)

    train = method.infer_some(args, network, *fitted)
    blind_train = method.infer_some(args, blind_network, *fitted)

    results = {}
    for videos, source in sources.items():
        test = method.infer_some(args, network, *source)
        blind_test = method.infer_some(args, blind_network, *source)
        z, actions, _ = test
        predictions = {}
        if hasattr(method, "LAM"):
            predictions["action_probe"] = method.fit_ridge(*train[:2])(z)
            predictions["blind_probe"] = method.fit_ridge(*blind_train[:2])(blind_test[0])
        else:  # the action itself
            predictions["idm"] = z
            predictions["blind_idm"] = blind_test[0]
        results |= method.perturbation_errors("", videos, train, test)
        results |= method.perturbation_errors("blind_", videos, blind_train, blind_test)
        if hasattr(network, "action_head"):
            predictions["action_head"] = network.action_head(z)
        for kind, prediction in predictions.items():
            errors = method.action_errors(kind, videos, prediction, actions)
            results |= errors
            if errors:  # none for plain videos
                by_dimension = (prediction - actions).square().mean(0) / actions.var(0, unbiased=False)
                results[f"{kind}_mse_over_var_per_dimension/{videos}"] = by_dimension.tolist()

        if videos == "unseen_videos":
            unseen_z = z
            if hasattr(method, "LAM"):
                results["effective_rank"] = method.effective_rank(z)
                results |= loss_ratios(method, args, network, eval_data)
        elif videos != "seen_videos":
            results[f"distractor_share/{videos}"] = distractor_share(unseen_z, z)
    return results


def loss_ratios(method, args, lam: nn.Module, data) -> dict:
    """Whether the FDM needs z, and whether it predicts at all."""
    errors = functools.partial(prediction_errors, lam)
    by_batch, *_ = method.infer_some(args, errors, data, data.shuffle)
    own, others, blind, no_change = by_batch.mean(0).tolist()
    return {
        "shuffled_loss_ratio": others / own,
        "blind_loss_ratio": blind / own,
        "copy_loss_ratio": own / no_change,
    }


def prediction_errors(lam: nn.Module, obs: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    """The FDM's MSE with its own z, with another transition's, with z of (obs, obs), and that of no change.

    (1, 4): LAPO's in pixels, where the two older frames of next_obs are frames of obs, LAOM's in embeddings.
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
        F.mse_loss(lam.predict(embedding, z.roll(len(z) // 2, 0)), target),  # of another trajectory
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
    """Figure 11: a pixel decoder learns to see through a frozen embedding; draws true and decoded frames."""
    torch.manual_seed(args.seed)
    scale = encoder.channels_out // 32
    decoder = EmbeddingDecoder(method, encoder.channels_out, scale, 1, 3 * args.frame_stack)
    decoder = decoder.to(args.device, memory_format=torch.channels_last)
    optim = torch.optim.Adam(decoder.parameters(), lr=1e-3, fused=True)
    index = data.transitions(data.shuffle)
    bar = tqdm(range(num_updates), desc="reconstruction", unit="update")
    for step in bar:
        optim.param_groups[0]["lr"] = method.learning_rate(1e-3, step, 0, num_updates, "cosine")
        obs = data.observe(index[method.batch_rows(len(index), 64, args.seed, step)])
        with args.autocast():
            decoded = decoder(encoder(obs))
        loss = F.mse_loss(decoded.float(), obs.float())
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")

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


def find_weights(path: Path) -> list[Path]:
    """The files of weights of a run's LAMs or IDMs, or the one that is named."""
    files = [path]
    if path.is_dir():
        files = sorted([*path.glob("lam*.pt"), *path.glob("idm*.pt")])
    if not files or not all(file.exists() and file.name.startswith(("lam", "idm")) for file in files):
        wanted = "a run's folder with lam*.pt or idm*.pt, or one of these"
        raise SystemExit(f"error: no finished first stage: give {wanted}")
    return files


def is_measured(weights: Path, measure_args: Args) -> bool:
    """Whether what is asked for lies beside the weights."""
    path = weights.with_suffix(".json")
    measures = json.loads(path.read_text()) if path.exists() else {}
    num_twins = sum(name.startswith("distractor_share/") for name in measures)
    is_drawn = weights.with_suffix(".png").exists() or not measure_args.reconstruct
    return bool(measures) and num_twins >= len(measure_args.twin_data) and is_drawn


def load_twins(method, args, paths: tuple[str, ...], eval_data) -> list:
    """The twins of the evaluation data, if they are: the same states and actions at the same times."""
    twins = [method.Dataset((path,), args) for path in paths]
    for twin in twins:
        for name in ("last", "actions", "states"):
            own, other = getattr(eval_data, name), getattr(twin, name)
            if not torch.equal(own.nan_to_num(), other.nan_to_num()):
                its, whose = twin.paths[0], eval_data.paths[0]
                raise SystemExit(f"error: {its} is no twin of {whose}: its trajectories are others")
    return twins


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def keep_freed_memory():
    """Has glibc keep freed memory, as the scripts do: a CPU spends a third of its time on mapping it anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: its end stays


@contextlib.contextmanager
def noted(path: Path, failures: list[str]):
    """Goes on where a measure of the path fails, and notes it in a line; shows whole what nobody foresaw."""
    try:
        yield
    except SystemExit as error:
        failures.append(f"{path}: {first_line(error).removeprefix('error: ')}")
    except Exception as error:
        traceback.print_exc()
        failures.append(f"{path}: {type(error).__name__}: {first_line(error)}")


def measure_run(path: Path, measure_args: Args, failures: list[str]):
    """Measures a run's LAMs or IDMs, or the one that is named."""
    files = find_weights(path)
    if measure_args.only_missing:
        files = [file for file in files if not is_measured(file, measure_args)]
    if not files:
        return
    folder = files[0].parent
    method = load_method(folder, measure_args.reconstruct)
    args = method.parse_args(["--resume", str(folder)])
    args = dataclasses.replace(args, device=measure_args.device)
    if measure_args.eval_data:
        args = dataclasses.replace(args, eval_data=measure_args.eval_data)
    data, labeled_data, eval_data = method.load_data(args)
    if not data.actions.isfinite().all():  # other tasks, or plain videos: the labels' trajectories
        data = labeled_data
    twins = load_twins(method, args, measure_args.twin_data, eval_data)
    for weights in files:
        with noted(weights, failures):
            network = load_network(method, args, weights, labeled_data.actions.shape[1])
            write_measures(weights, measure(method, args, network, data, eval_data, twins))
            if hasattr(network, "decoder"):
                draw_predictions(args, network, eval_data, folder / "prediction.png")
            if measure_args.reconstruct:
                picture = weights.with_suffix(".png")
                num_updates = measure_args.num_updates
                reconstruct(method, args, network.encoder, data, eval_data, num_updates, picture)
                print(picture)


def write_measures(weights: Path, results: dict):
    """Prints them, and puts them beside the weights, whole or not at all."""
    print(f"\n{weights}")
    for name, value in results.items():
        values = value if isinstance(value, list) else [value]
        print(f"{name:62}", *[f"{x:.3f}" for x in values])
    partial = weights.with_suffix(".json.partial")
    partial.write_text(json.dumps(results, indent=2))
    partial.replace(weights.with_suffix(".json"))


def main(measure_args: Args):
    keep_freed_memory()
    failures = []
    for path in measure_args.paths:
        with noted(path, failures):
            measure_run(path, measure_args, failures)
    if len(failures) == 1:
        raise SystemExit(f"error: {failures[0]}")
    if failures:
        raise SystemExit("error: these failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        raise SystemExit("error: interrupted; with --only-missing the same command goes on")
