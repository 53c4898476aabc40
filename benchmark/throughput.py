"""How fast the scripts are on this machine, each measured beside something to compare it with, in one run.

    python benchmark/throughput.py train                   # transitions/s of every stage, where the time goes
    python benchmark/throughput.py train --sizes paper     # the paper's networks and batches: for a GPU
    python benchmark/throughput.py train --sizes paper --no-shares --no-evaluation --flags="--no-compile"
    python benchmark/throughput.py large-file              # training from 12.6 GB with at most 4 GB of memory
    python benchmark/throughput.py collect                 # frames/s against MuJoCo's default settings
    python benchmark/throughput.py collect --task humanoid-walk --difficulty vanilla --workers 8

train: each stage runs in a process of its own, on the data of `collect_data.py demo`, first as it is
(transitions/s, peak memory, seconds from the start to the end of the first update, with reading the file and
compilation; nothing is logged or saved), then in another process under Python's own profiler, which tells the
time inside the functions of PARTS: data (gather frames, make the networks' input), augmentation, forward,
backward, optimiser; the rest is losses, schedule, sampling and LAOM's slow copy. There every CUDA kernel is
waited for where it is launched. FLOPs are those of convolutions and matrix products in the updates, forward
and backward, counted by PyTorch; the ceiling is the best rate of a large matrix product, measured here before
the stages. --sizes reference: batch 256, encoder scale 1 with 1 residual block, heads 256, z 256, actor scale
2, 64 labelled, augmentation; docs/speed.md has what was measured at them beside the released code.

large-file: repeats the trajectories of a file until there are so many bytes, and trains laom.py on them,
batches drawn from all over the file, under RLIMIT_DATA: what the process itself allocates is limited, pages
of the mapped file belong to the system.

collect: the default rendering is what dm_control does unasked: an offscreen buffer of 640×480, a shadow map
of 2048², a sky of 800² pixels per face that is uploaded at each step, fine spheres and capsules, a new
camera object for each picture, and Mesa's own number of threads; in one process. Ours are the settings of
collect_data.py, in one process and in --workers processes. All have the same distractors, those of
--difficulty, and play the same episode. The pixel difference is the mean absolute difference of the same
states, 0 to 255; the background is one video, enlarged to 800² for the default.

The last line is one JSON object.
"""

import concurrent.futures
import contextlib
import cProfile
import importlib
import json
import multiprocessing
import os
import pstats
import queue
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
import tyro
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
import collect_data

DEMO_DATA = "data/cheetah-run__scale_easy_video_hard__repeat4__noise0.8__train.hdf5"

# ---- train ------------------------------------------------------------------------------------------------

STAGES = (
    "lapo.lam",
    "laom.lam",
    "laom_supervised.lam",
    "idm.idm",
    "lapo.bc",
    "laom.bc",
    "idm.bc",
    "bc.bc",
)
WARM_UP = 3  # updates that are not timed
TABLE_2 = {"lapo": 7.63, "laom": 6.72, "laom_supervised": 7.1, "bc": 1.17, "idm": 5.5}  # hours on an H100
OF_BC = ["--bc.batch-size", "256", "--bc.encoder-scale", "2"]
REFERENCE_FLAGS = {  # what the demo has otherwise
    "lapo": [*OF_BC, "--lam.batch-size", "256"],
    "laom": [*OF_BC, "--lam.batch-size", "256", "--lam.use-aug"],
    "laom_supervised": [*OF_BC, "--lam.batch-size", "256", "--lam.use-aug", "--lam.labeled-batch-size", "64"],
    "idm": [*OF_BC, "--idm.batch-size", "256"],
    "bc": OF_BC,
}
# Part of an update → the functions whose time it is: (end of the file's path, name). None calls another.
PARTS = {
    "data": [("<script>", "observe")],
    "augmentation": [("<script>", "augment")],
    "forward": [("torch/nn/modules/module.py", "_wrapped_call_impl")],
    "backward": [("torch/_tensor.py", "backward")],
    "optimiser": [
        ("torch/optim/adam.py", "step"),
        ("torch/optim/optimizer.py", "zero_grad"),
    ],
}


@dataclass
class Train:
    """transitions/s of the training stages, where the time goes, and how much of the machine they use"""

    sizes: Literal["reference", "paper"] = "reference"
    """of networks and batches: small ones for a CPU (see above), or Appendix F's"""
    stages: tuple[str, ...] = STAGES
    """script.stage of what to measure"""
    num_updates: int = 30
    """updates that are timed, after three that are not"""
    data: str = DEMO_DATA
    """training file"""
    shares: bool = True
    """also where an update's time goes, in a second process for each stage"""
    evaluation: bool = True
    """also play laom.py's evaluation, 25 episodes with seen and 25 with unseen videos: some minutes"""
    flags: str = ""
    """further arguments of the stages' scripts, with an equals sign: --flags="--device cpu --compile" """


class ShortRun:
    """Stands in for a script's Run: hands a stage its steps, and notes the time; logs and keeps nothing."""

    def __init__(self, num_updates: int, device: str, watch=None):
        self.num_updates = num_updates
        self.device = device
        self.watch = watch or contextlib.nullcontext()  # is entered around the updates that are timed

    def now(self) -> float:
        """The time when the device has done what it was asked to."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def steps(self, stage: str, total: int, batch_size: int, **parts):
        for step in range(WARM_UP):
            yield step
            if step == 0:
                self.first_update = self.now()
        self.began = self.now()
        with self.watch:
            for step in range(WARM_UP, WARM_UP + self.num_updates):
                yield step
            self.ended = self.now()

    def log_due(self, step: int) -> bool:
        return False


def load(name: str, train: Train):
    """A script as a module, and its arguments at the sizes asked for."""
    method = importlib.import_module(name)
    sizes = ["demo", *REFERENCE_FLAGS[name]] if train.sizes == "reference" else ["paper"]
    budget = "all" if name == "bc" else "8"
    flags = ["--num-labeled-trajectories", budget, "--data", train.data, *train.flags.split()]
    args = method.parse_args([*sizes, *flags])
    method.start_process(args)
    return method, args


def train_stage(stage: str, method, args, run: ShortRun):
    """Runs a stage's own loop."""
    name, kind = stage.split(".")
    data = method.Dataset(args.data, args, data_device=args.data_device)
    labeled_index = data.transitions(data.shuffle[:8])
    if stage == "laom_supervised.lam":
        method.train_lam(args, data, data, labeled_index, "lam_8", run)
    elif kind == "lam":
        method.train_lam(args, data, "lam", run)
    elif kind == "idm":
        method.train_idm(args, data, labeled_index, "idm_8", run)
    elif name == "bc":
        method.train_actor(args, data, data.transitions(data.shuffle), 10**6, "bc_all", run)
    else:
        if name == "idm":
            network = method.IDM(args.idm, args.frame_stack, data.actions.shape[1])
        else:
            network = method.LAM(args.lam, args.frame_stack)
        network = network.to(args.device, memory_format=torch.channels_last).requires_grad_(False)
        method.train_actor(args, data, network, "bc", run)


def settings_of(stage: str, args):
    """The arguments of a stage."""
    return getattr(args, stage.split(".")[1])


def measure_speed(stage: str, train: Train) -> dict:
    """Speed and memory of a stage, and the FLOPs of its updates; to be called in a fresh process."""
    started = time.perf_counter()
    method, args = load(stage.split(".")[0], train)
    cfg = settings_of(stage, args)
    run = ShortRun(train.num_updates, args.device)
    train_stage(stage, method, args, run)
    if args.device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = (run.ended - run.began) / train.num_updates

    args.compile = False
    counter = FlopCounterMode(display=False)
    train_stage(stage, method, args, ShortRun(1, args.device, counter))
    planned = cfg.num_updates * cfg.batch_size if stage == "idm.idm" else cfg.num_epochs * 5000 * 999
    return {
        "transitions_per_second": round(cfg.batch_size / seconds, 1),
        "first_update_seconds": round(run.first_update - started, 1),
        "planned_transitions": planned,
        "peak_memory_gb": round(memory / 1e9, 2),
        "dtype": str(args.dtype).split(".")[1],
        "gflop_per_transition": round(counter.get_total_flops() / cfg.batch_size / 1e9, 3),
        "seconds": seconds,
    }


def measure_shares(stage: str, train: Train) -> dict[str, float]:
    """The parts of an update as shares of its time; to be called in a fresh process."""
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"  # a call's time includes that of its kernels
    method, args = load(stage.split(".")[0], train)
    profile = cProfile.Profile()
    run = ShortRun(train.num_updates, args.device, profile)
    train_stage(stage, method, args, run)
    shares = {part: 0.0 for part in PARTS}
    for (path, _, function), timing in pstats.Stats(profile).stats.items():
        cumulative = timing[3]
        for part, functions in PARTS.items():
            for file, name in functions:
                if name == function and path.endswith(file.replace("<script>", method.__file__)):
                    shares[part] += cumulative / (run.ended - run.began)
    shares["rest"] = 1 - sum(shares.values())
    return {part: round(share, 3) for part, share in shares.items()}


def measure_evaluation(train: Train) -> dict:
    """Seconds of laom.py's evaluation; to be called in a fresh process."""
    method, args = load("laom", train)
    _, labeled_data, _ = method.load_data(args)
    environments = method.find_environments(args, labeled_data)
    length = method.EPISODE_LENGTH // labeled_data.action_repeat
    z_dim = args.lam.latent_action_dim
    actor = method.Actor(args.bc, args.frame_stack, z_dim)
    actor = actor.to(args.device, memory_format=torch.channels_last)
    hidden_dim = args.decoder.hidden_dim
    decoder = method.MLP(z_dim, [hidden_dim, hidden_dim, labeled_data.actions.shape[1]]).to(args.device)
    policy = nn.Sequential(actor, decoder)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        method.evaluate(args, environments, length, policy, f"{folder}/film.gif")
        seconds = time.perf_counter() - started
    return {"episodes": 2 * args.eval.num_episodes, "seconds": round(seconds, 1)}


def measure_ceiling(train: Train) -> dict:
    """The best rate of a square matrix product, GFLOP/s; to be called in a fresh process."""
    _, args = load(train.stages[0].split(".")[0], train)
    on_gpu = args.device.startswith("cuda")
    clock = ShortRun(0, args.device)
    result = {}
    for name, dtype in {"bfloat16": torch.bfloat16, "float32": torch.float32}.items():
        rates = []
        for size in (4096, 8192, 16384) if on_gpu else (1024, 2048, 4096):
            a = torch.randn(size, size, device=args.device, dtype=dtype)
            b = torch.randn(size, size, device=args.device, dtype=dtype)
            torch.matmul(a, b)
            began = clock.now()
            for _ in range(10):
                torch.matmul(a, b)
            rates.append(10 * 2 * size**3 / (clock.now() - began) / 1e9)
        result[name] = round(max(rates), 1)
    result["device"] = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} cores"
    return result


def end_with_parent():
    """Ends this process, however the one that started it has ended."""
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def in_fresh_process(function: Callable, *args):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=end_with_parent) as pool:
        return pool.submit(function, *args).result()


def refuse_missing(path: str):
    if not Path(path).exists():
        raise SystemExit(
            f"error: no file {path}; `python collect_data.py demo` makes one, --data names another"
        )


def measure_training(train: Train):
    refuse_missing(train.data)
    unknown = set(train.stages) - set(STAGES)
    if unknown:
        raise SystemExit(f"error: --stages {' '.join(unknown)}: none of {' '.join(STAGES)}")
    ceiling = in_fresh_process(measure_ceiling, train)
    rates = f"{ceiling['bfloat16']:.0f} GFLOP/s in bfloat16, {ceiling['float32']:.0f} in float32"
    print(f"{ceiling['device']}: matrix product {rates}\n")
    columns = f"{'stage':20} {'transitions/s':>13} {'of ceiling':>10}"
    columns += f" {'1st update':>10} {'memory':>8}"
    parts = [*PARTS, "rest"] if train.shares else []
    print(columns + "".join(f"{part:>13}" for part in parts))
    stages = {}
    for stage in train.stages:
        result = in_fresh_process(measure_speed, stage, train)
        result["shares"] = in_fresh_process(measure_shares, stage, train) if train.shares else {}
        speed = result["transitions_per_second"]
        ceiling_fraction = speed * result["gflop_per_transition"] / ceiling[result["dtype"]]
        result["ceiling_fraction"] = round(ceiling_fraction, 3)
        stages[stage] = result
        row = f"{stage:20} {speed:13.0f} {ceiling_fraction:>10.0%} {result['first_update_seconds']:>8.1f} s"
        row += f" {result['peak_memory_gb']:>5.1f} GB"
        print(row + "".join(f"{share:>13.0%}" for share in result["shares"].values()), flush=True)
    report = {"what": "train", "sizes": train.sizes, "ceiling_gflops": ceiling, "stages": stages}
    if train.evaluation:
        result = in_fresh_process(measure_evaluation, train)
        report["evaluation"] = result
        per_episode = result["seconds"] / result["episodes"]
        print(f"\nevaluation: {result['episodes']} episodes, {per_episode:.2f} s each")
    if train.sizes == "paper" and set(STAGES) <= set(stages):
        report["hours"] = print_hours(stages)
    print(json.dumps(report))


def print_hours(stages: dict) -> dict[str, float]:
    """Hours of the paper's stages 1 and 2 at the measured speeds."""
    print("\nhours of the paper's stages 1 and 2 (5,000 trajectories, 10 epochs each), without evaluation;")
    print("Table 2's on an H100:")
    hours = {}
    for stage, result in stages.items():
        hours[stage] = result["planned_transitions"] / result["transitions_per_second"] / 3600
    hours["laom_supervised.bc"] = hours["laom.bc"]
    totals = {}
    for name, table_2 in TABLE_2.items():
        of_method = [value for stage, value in hours.items() if stage.split(".")[0] == name]
        totals[name] = round(sum(of_method), 2)
        print(f"{name:20} {totals[name]:6.2f} {table_2:6.2f}")
    return totals


# ---- large-file -------------------------------------------------------------------------------------------


@dataclass
class LargeFile:
    """training from a file larger than the memory"""

    gigabytes: float = 12.6
    """size of the file, made of the trajectories of --data again and again"""
    limit_gigabytes: float = 4
    """RLIMIT_DATA of the training process"""
    num_updates: int = 200
    """updates of laom.py with the demo's networks"""
    data: str = DEMO_DATA
    """training file to repeat"""
    output: Path = Path("data/large.hdf5")
    """the large file, which must not exist yet and is removed at the end"""


class WatchedRun(ShortRun):
    """Tells the seconds since the start and the memory of the process as it goes."""

    def __init__(self, num_updates: int, device: str, started: float):
        super().__init__(num_updates, device)
        self.started = started
        self.rows = []

    def steps(self, stage: str, total: int, batch_size: int, **parts):
        for step in range(self.num_updates):
            yield step
            if step + 1 in (1, 20, self.num_updates):
                seconds = self.now() - self.started
                row = {"update": step + 1, "seconds": seconds} | memory_of_process()
                self.rows.append(row)
                print(
                    f"update {row['update']:4}: {seconds:6.1f} s after the start, own memory "
                    f"{row['RssAnon']:.2f} GB, mapped pages in memory {row['RssFile']:.2f} GB",
                    flush=True,
                )


def memory_of_process() -> dict[str, float]:
    """Gigabytes of its own memory and of mapped pages."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {name: int(status[name].split()[0]) / 1e6 for name in ("RssAnon", "RssFile")}


def train_limited(args: LargeFile) -> list[dict]:
    """Runs laom.py's stage 1 with limited memory; to be called in a fresh process."""
    started = time.perf_counter()
    limit = int(args.limit_gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    method, settings = load("laom", Train(data=str(args.output)))
    data = method.Dataset(settings.data, settings, data_device=settings.data_device)
    print(f"file open {time.perf_counter() - started:.1f} s after the start", flush=True)
    run = WatchedRun(args.num_updates, settings.device, started)
    method.train_lam(settings, data, "lam", run)
    return run.rows


def measure_large_file(args: LargeFile):
    refuse_missing(args.data)
    if args.output.exists():
        raise SystemExit(f"error: --output {args.output} exists, and would be removed at the end")
    try:
        with h5py.File(args.data) as source, h5py.File(args.output, "w") as large:
            large.attrs.update(source.attrs)
            repeats = args.gigabytes * 1e9 / Path(args.data).stat().st_size
            num_trajectories = int(repeats * len(source))
            for number in range(num_trajectories):
                source.copy(source[str(number % len(source))], large, str(number))
        size = args.output.stat().st_size / 1e9
        print(f"{args.output}: {size:.1f} GB, {num_trajectories} trajectories", flush=True)
        rows = in_fresh_process(train_limited, args)
    finally:
        args.output.unlink(missing_ok=True)
    limits = {"gigabytes": args.gigabytes, "limit_gigabytes": args.limit_gigabytes}
    print(json.dumps({"what": "large-file", **limits, "rows": rows}))


# ---- collect ----------------------------------------------------------------------------------------------


@dataclass
class Collect:
    """frames/s of collection"""

    task: str = "cheetah-run"
    """dm_control task"""
    difficulty: Literal["vanilla", "easy", "medium", "hard", "scale_easy_video_hard"] = (
        "scale_easy_video_hard"
    )
    """distractors; vanilla has none"""
    workers: int = os.cpu_count() or 1
    """processes of our side"""
    steps: int = 400
    """environment steps per process and measurement"""
    default_steps: int = 100
    """environment steps of the default rendering, which is slow"""
    compared_steps: int = 50
    """steps whose pixels are compared"""
    seed: int = 0
    """of the episode and the background video"""


class DefaultCamera:
    """What dm_control does for each picture unasked."""

    def __init__(self, physics):
        self.physics = physics

    def render(self) -> np.ndarray:
        return self.physics.render(collect_data.IMG_HW, collect_data.IMG_HW, camera_id=0)


def make_env(args: Collect, default: bool, video: np.ndarray):
    """The distracting environment with our rendering or the default one."""
    scale, number = collect_data.DIFFICULTIES[args.difficulty]
    videos = [] if number == 0 else [video]
    if not default:
        return collect_data.DistractingControl(collect_data.load_task(args.task), scale, scale, videos)
    import absl.logging  # not above: dm_control binds to OpenGL when it is first imported
    import shimmy
    from dm_control import suite

    absl.logging.set_verbosity("error")  # deprecations in dm_control's own XML
    env = shimmy.DmControlCompatibilityV0(suite.load(*args.task.split("-")))
    env = collect_data.DistractingControl(env, scale, scale, videos)
    env.camera = DefaultCamera(env.physics)
    return env


def play(args: Collect, default: bool, steps: int, video: np.ndarray, barrier, results):
    """A process: plays random actions, puts (steps per second, the first pictures) into the queue."""
    end_with_parent()
    env = make_env(args, default, video)
    rng = np.random.default_rng(args.seed)
    actions = rng.uniform(-1, 1, (steps, *env.action_space.shape))
    env.reset(seed=args.seed)
    compared = actions[: args.compared_steps]
    pictures = np.stack([env.step(action)[0] for action in compared])  # also the warm-up
    env.reset(seed=args.seed)
    barrier.wait()
    started = time.perf_counter()
    for action in actions:
        env.step(action)
    results.put((steps / (time.perf_counter() - started), pictures))


def measure(
    args: Collect, default: bool, workers: int, steps: int, video: np.ndarray
) -> tuple[float, np.ndarray]:
    """Frames per second of all processes together, and the pictures of one."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.Queue()
    our_threads = os.environ.pop("LP_NUM_THREADS")
    if not default:  # which is Mesa's own choice
        os.environ["LP_NUM_THREADS"] = our_threads
    settings = (args, default, steps, video, barrier, results)
    processes = [context.Process(target=play, args=settings, daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    os.environ["LP_NUM_THREADS"] = our_threads
    measured = []
    while len(measured) < workers:
        try:
            measured.append(results.get(timeout=1))
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise SystemExit("error: a process ended before it had measured; what it said is above")
    for process in processes:
        process.join()
    return sum(speed for speed, _ in measured), measured[0][1]


def measure_collection(args: Collect):
    collect_data.pick_rendering_backend()
    print("drawing a background video …", file=sys.stderr)
    video = collect_data.dead_leaves_video(args.seed, num_frames=8)
    enlarged = [np.asarray(Image.fromarray(frame).resize((800, 800), Image.BILINEAR)) for frame in video]
    default_speed, default_pictures = measure(args, True, 1, args.default_steps, np.stack(enlarged))
    single_speed, pictures = measure(args, False, 1, args.steps, video)
    speed, _ = measure(args, False, args.workers, args.steps, video)
    difference = np.abs(pictures.astype(float) - default_pictures).mean()
    print(f"{args.task}, {args.difficulty}, {os.environ['MUJOCO_GL']}, {os.cpu_count()} cores")
    print(f"{'default rendering, 1 process':34} {default_speed:8.1f} frames/s")
    print(f"{'ours, 1 process':34} {single_speed:8.1f} frames/s {single_speed / default_speed:6.1f} ×")
    print(f"{f'ours, {args.workers} processes':34} {speed:8.1f} frames/s {speed / default_speed:6.1f} ×")
    print(f"{'mean absolute pixel difference':34} {difference:8.2f} of 255")
    result = {
        "task": args.task,
        "difficulty": args.difficulty,
        "frames_per_second": round(speed, 1),
        "default_frames_per_second": round(default_speed, 1),
        "ratio": round(speed / default_speed, 2),
        "pixel_difference": round(difference, 3),
        "workers": args.workers,
    }
    print(json.dumps(result))


def main():
    args = tyro.cli(Train | LargeFile | Collect, description=__doc__)
    if isinstance(args, Train):
        measure_training(args)
    elif isinstance(args, LargeFile):
        measure_large_file(args)
    else:
        measure_collection(args)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, OSError, MemoryError, concurrent.futures.process.BrokenProcessPool) as error:
        raise SystemExit(f"error: {str(error) or type(error).__name__}")
