"""How fast the scripts are on this machine, each measured beside something to compare it with, in one run.

    python benchmark/throughput.py train                   # transitions/s of every stage, where the time goes, share of the ceiling
    python benchmark/throughput.py train --sizes paper     # the paper's networks and batches: for a GPU
    python benchmark/throughput.py large-file              # training from a file of 12.6 GB with at most 4 GB of memory
    python benchmark/throughput.py collect                 # frames/s of collection against MuJoCo's default rendering settings
    python benchmark/throughput.py collect --task humanoid-walk --difficulty vanilla --workers 8

train: each stage runs in a process of its own, on the data of `collect_data.py demo`, first as it is (transitions/s, peak memory,
seconds from the start to the end of the first update, with reading the file and compilation), then with a clock that waits for the
device around every part: data (gather frames, make the networks' input), augmentation, forward, backward, optimiser (and the slow
copy), rest (schedule, logging, progress bar). FLOPs are those of convolutions and matrix products, forward and backward, counted by
PyTorch; the ceiling is the best rate of a large matrix product, measured here before the stages. --sizes reference are those of
the released code's figures printed beside ours: batch 256, encoder scale 1 with 1 residual block, heads 256, z 256, actor scale
2, 64 labelled, augmentation; they were measured on another machine of 2 cores.

large-file: repeats the trajectories of a file until there are so many bytes, and trains laom.py on them, batches drawn from all
over the file, under RLIMIT_DATA: what the process itself allocates is limited, pages of the mapped file belong to the system.

collect: the default rendering is what dm_control does unasked: an offscreen buffer of 640×480, a shadow map of 2048², a sky of 800²
pixels per face that is uploaded at each step, fine spheres and capsules, a new camera object for each picture, and Mesa's own
number of threads; in one process. Ours are the settings of collect_data.py, in one process and in --workers processes. All have the
same distractors, those of --difficulty, and play the same episode. The pixel difference is the mean absolute difference of the same
states, 0 to 255; the background is drawn at 800² for the default and reduced to ours.

The last line is one JSON object.
"""

import concurrent.futures
import importlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
import collect_data

# ---- train -------------------------------------------------------------------------------------------------------------------

STAGES = ("lapo.lam", "laom.lam", "laom_supervised.lam", "idm.idm", "lapo.bc", "laom.bc", "idm.bc", "bc.bc")
RELEASED_CODE = {
    "lapo.lam": 399,
    "laom.lam": 520,
    "laom_supervised.lam": 378,
    "laom.bc": 703,
}  # transitions/s, 2 cores, reference sizes
RELEASED_EVALUATION = 32  # seconds per episode, on 2 cores
TABLE_2 = {"lapo": 7.63, "laom": 6.72, "laom_supervised": 7.1, "bc": 1.17, "idm": 5.5}  # hours on an H100
REFERENCE_FLAGS = {
    "lapo": ["--bc.encoder-scale", "2"],
    "laom": ["--bc.encoder-scale", "2", "--lam.use-aug"],
    "laom_supervised": ["--bc.encoder-scale", "2", "--lam.use-aug", "--lam.labeled-batch-size", "64"],
    "idm": ["--bc.encoder-scale", "2"],
    "bc": ["--bc.encoder-scale", "2"],
}


@dataclass
class Train:
    """transitions/s of the training stages, where the time goes, and how much of the machine they use"""

    sizes: Literal["reference", "paper"] = "reference"
    """of networks and batches: those of the released code's figures (see above), or Appendix F's"""
    stages: tuple[str, ...] = STAGES
    """script.stage of what to measure"""
    num_updates: int = 30
    """updates that are timed, after three that are not"""
    data: str = "data/cheetah-run__scale_easy_video_hard__train.hdf5"
    """training file"""
    evaluation: bool = True
    """also play laom.py's evaluation, 25 episodes with seen and 25 with unseen videos: some minutes"""
    flags: str = ""
    """further arguments of the scripts, with an equals sign: --flags="--device cpu --compile" """


class Clock:
    """Seconds by part of an update; waits for the device before and after each."""

    def __init__(self, device: str):
        self.seconds, self.synchronize = defaultdict(float), torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def timed(self, part: str, function):
        def call(*args, **kwargs):
            self.synchronize()
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self.synchronize()
            self.seconds[part] += time.perf_counter() - started
            return result

        return call

    def install(self, method):
        """Puts itself around the parts of a script's loops; this process measures nothing else afterwards."""
        for name, part in {"to_input": "data", "augment": "augmentation", "random_homographies": "augmentation"}.items():
            if hasattr(method, name):
                setattr(method, name, self.timed(part, getattr(method, name)))
        method.Dataset.observations = self.timed("data", method.Dataset.observations)
        method.parallel = lambda losses, *args, parallel=method.parallel: self.timed("forward", parallel(losses, *args))
        torch.Tensor.backward = self.timed("backward", torch.Tensor.backward)
        for name in ("step", "zero_grad"):
            setattr(torch.optim.Adam, name, self.timed("optimiser", getattr(torch.optim.Adam, name)))
        torch._foreach_lerp_ = self.timed("optimiser", torch._foreach_lerp_)


def load(name: str, train: Train, folder: str):
    """A script as a module, its arguments at the sizes asked for, and the data."""
    method = importlib.import_module(name)
    method.tqdm = lambda *args, tqdm=method.tqdm, **kwargs: tqdm(*args, **kwargs | {"disable": True})
    sizes = ["demo", *REFERENCE_FLAGS[name]] if train.sizes == "reference" else ["paper"]
    budget = "all" if name == "bc" else "8"
    args = method.parse_args(
        [*sizes, "--num-labeled-trajectories", budget, "--data", train.data, "--runs", folder, *train.flags.split()]
    )
    method.start_process(args)
    return method, args, method.Dataset(args.data, args.device, data_device=args.data_device)


def run_stage(stage: str, train: Train) -> dict:
    """Measures one stage; to be called in a fresh process."""
    name, kind = stage.split(".")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        method, args, data = load(name, train, folder)
        clock, marks = Clock(args.device), {}

        class ShortRun(method.Run):
            """The script's own loop and records, for a few updates; keeps no weights."""

            def updates(self, stage, total, *settings, **parts):
                for step, values in super().updates(stage, num_updates, *settings, **parts):
                    if step in (1, 3, num_updates - 1):
                        clock.synchronize()
                        marks[step] = time.perf_counter(), dict(clock.seconds)
                    yield step, values

            def finish(self, *args, **kwargs):
                pass

        def train_stage():
            args.resume, labeled = None, data.transitions(data.shuffle[:8])
            run = ShortRun(args, data.task)
            if stage == "laom_supervised.lam":
                return method.train_lam(args, data, data, labeled, "lam_8", run)
            if stage == "idm.idm":
                return method.train_idm(args, data, labeled, "idm_8", run)
            if stage == "bc.bc":
                return method.train_actor(args, data, data.transitions(), 10**6, "bc_all", run)
            if kind == "lam":
                return method.train_lam(args, data, "lam", run)
            if name == "idm":
                network = method.IDM(args.idm, args.frame_stack, data.actions.shape[1])
            else:
                network = method.LAM(args.lam, args.frame_stack)
            return method.train_actor(args, data, network.to(args.device, memory_format=torch.channels_last), "bc", run)

        num_updates = train.num_updates + 4
        train_stage()
        (first, _), (begin, _), (end, _) = (marks[step] for step in sorted(marks))
        seconds = (end - begin) / train.num_updates
        cfg = args.idm if kind == "idm" else args.lam if kind == "lam" else args.bc
        result = {"transitions_per_second": round(cfg.batch_size / seconds, 1), "first_update_seconds": round(first - started, 1)}
        on_gpu = args.device.startswith("cuda")
        memory = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result["planned_transitions"] = cfg.num_updates * cfg.batch_size if kind == "idm" else cfg.num_epochs * 5000 * 999
        result |= {"peak_memory_gb": round(memory / 1e9, 2), "dtype": str(args.dtype).split(".")[1]}

        clock.install(method)
        train_stage()
        (_, (begin, before), (end, after)) = (marks[step] for step in sorted(marks))
        parts = ("data", "augmentation", "forward", "backward", "optimiser")
        shares = {part: (after.get(part, 0) - before.get(part, 0)) / (end - begin) for part in parts}
        result["shares"] = {part: round(share, 3) for part, share in (shares | {"rest": 1 - sum(shares.values())}).items()}

        num_updates, args.compile = 1, False
        with FlopCounterMode(display=False) as counter:
            train_stage()
        return result | {"gflop_per_transition": round(counter.get_total_flops() / cfg.batch_size / 1e9, 3)} | {"seconds": seconds}


def run_evaluation(train: Train) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        method, args, _ = load("laom", train, folder)
        data, labeled_data, _ = method.load_data(args)
        method.pick_rendering_backend()
        actor = method.Actor(args.bc, args.frame_stack, args.lam.latent_action_dim).to(
            args.device, memory_format=torch.channels_last
        )
        decoder = method.ActionDecoder(args.lam.latent_action_dim, args.decoder.hidden_dim, data.actions.shape[1]).to(args.device)
        started = time.perf_counter()
        method.evaluate(args, labeled_data, actor, decoder, Path(folder) / "film.gif")
        return {"episodes": 2 * args.eval.num_episodes, "seconds": round(time.perf_counter() - started, 1)}


def run_ceiling(train: Train) -> dict:
    """The best rate of a square matrix product, GFLOP/s."""
    device = load("bc", train, tempfile.gettempdir())[1].device
    clock, result = Clock(device), {}
    for name, dtype in {"bfloat16": torch.bfloat16, "float32": torch.float32}.items():
        rates = []
        for size in (1024, 2048, 4096) if device == "cpu" else (4096, 8192, 16384):
            a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
            product = clock.timed(f"{name}{size}", torch.matmul)
            product(a, b)
            clock.seconds.clear()
            for _ in range(10):
                product(a, b)
            rates.append(10 * 2 * size**3 / clock.seconds[f"{name}{size}"] / 1e9)
        result[name] = round(max(rates), 1)
    return result | {"device": torch.cuda.get_device_name() if device != "cpu" else f"{os.cpu_count()} cores"}


def spawn_one() -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def measure_training(train: Train):
    if not Path(train.data).exists():
        raise SystemExit(f"error: no file {train.data}; `python collect_data.py demo` makes one, --data names another")
    if unknown := set(train.stages) - set(STAGES):
        raise SystemExit(f"error: --stages {' '.join(unknown)}: none of {' '.join(STAGES)}")
    fresh = lambda function, *args: spawn_one().submit(function, *args).result()
    ceiling = fresh(run_ceiling, train)
    print(
        f"{ceiling['device']}: matrix product {ceiling['bfloat16']:.0f} GFLOP/s in bfloat16, {ceiling['float32']:.0f} in float32\n"
    )
    parts = ("data", "augmentation", "forward", "backward", "optimiser", "rest")
    print(
        f"{'stage':20} {'transitions/s':>13} {'released':>9} {'ratio':>6} {'of ceiling':>10} {'1st update':>10} {'memory':>8}",
        end="",
    )
    print("".join(f"{part:>13}" for part in parts))
    stages = {}
    for stage in train.stages:
        stages[stage] = result = fresh(run_stage, stage, train)
        speed = result["transitions_per_second"]
        result["ceiling_fraction"] = round(speed * result["gflop_per_transition"] / ceiling[result["dtype"]], 3)
        released = RELEASED_CODE.get(stage) if train.sizes == "reference" and ceiling["device"].endswith("cores") else None
        result |= {"released_code": released, "ratio": round(speed / released, 2)} if released else {}
        print(
            f"{stage:20} {speed:13.0f} {released or '':>9} {result.get('ratio', ''):>6} {result['ceiling_fraction']:>10.0%}", end=""
        )
        print(f"{result['first_update_seconds']:>9.1f} s {result['peak_memory_gb']:>5.1f} GB", end="")
        print("".join(f"{result['shares'][part]:>13.0%}" for part in parts), flush=True)
    report = {"what": "train", "sizes": train.sizes, "ceiling_gflops": ceiling, "stages": stages}
    if train.evaluation:
        report["evaluation"] = result = fresh(run_evaluation, train)
        per_episode = result["seconds"] / result["episodes"]
        print(f"\nevaluation: {result['episodes']} episodes in {result['seconds']:.0f} s, {per_episode:.2f} s each; ", end="")
        print(f"the released code, one by one: {RELEASED_EVALUATION} s each on 2 cores, {RELEASED_EVALUATION / per_episode:.1f} ×")
    if train.sizes == "paper" and set(STAGES) <= set(stages):
        hours = {stage: result["planned_transitions"] / result["transitions_per_second"] / 3600 for stage, result in stages.items()}
        print(
            "\nhours of the paper's stages 1 and 2 (5,000 trajectories, 10 epochs each), without evaluation; Table 2's on an H100:"
        )
        for name, table_2 in TABLE_2.items():
            bc = hours.get(f"{name}.bc", hours["laom.bc"])
            first = hours.get(f"{name}.lam", hours["idm.idm"] if name == "idm" else 0)
            report.setdefault("hours", {})[name] = round(first + bc, 2)
            print(f"{name:20} {report['hours'][name]:6.2f} {table_2:6.2f}")
    print(json.dumps(report))


# ---- large-file --------------------------------------------------------------------------------------------------------------


@dataclass
class LargeFile:
    """training from a file larger than the memory"""

    gigabytes: float = 12.6
    """size of the file, made of the trajectories of --data again and again"""
    limit_gigabytes: float = 4
    """RLIMIT_DATA of the training process"""
    num_updates: int = 200
    """updates of laom.py with the demo's networks"""
    data: str = "data/cheetah-run__scale_easy_video_hard__train.hdf5"
    """training file to repeat"""
    output: Path = Path("data/large.hdf5")
    """the large file, removed at the end"""


def train_limited(args: LargeFile, report):
    """A process with limited memory: runs laom.py's stage 1, and reports the seconds and its memory as it goes."""
    started = time.perf_counter()
    resource.setrlimit(resource.RLIMIT_DATA, (int(args.limit_gigabytes * 1e9),) * 2)
    train = Train(data=str(args.output), flags="--log-interval 1")
    with tempfile.TemporaryDirectory() as folder:
        method, settings, data = load("laom", train, folder)
        read_seconds = time.perf_counter() - started

        class WatchedRun(method.Run):
            def updates(self, stage, total, *rest, **parts):
                for step, values in super().updates(stage, args.num_updates + 1, *rest, **parts):
                    if step in (1, 20, args.num_updates):
                        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
                        gigabytes = {name: int(status[name].split()[0]) / 1e6 for name in ("RssAnon", "RssFile")}
                        report.put({"update": step, "seconds": time.perf_counter() - started, "read": read_seconds, **gigabytes})
                    yield step, values

        settings.resume = None
        method.train_lam(settings, data, "lam", WatchedRun(settings, data.task))


def measure_large_file(args: LargeFile):
    if not Path(args.data).exists():
        raise SystemExit(f"error: no file {args.data}; `python collect_data.py demo` makes one, --data names another")
    with h5py.File(args.data) as source, h5py.File(args.output, "w") as large:
        large.attrs.update(source.attrs)
        for number in range(int(args.gigabytes * 1e9 / Path(args.data).stat().st_size * len(source))):
            source.copy(source[str(number % len(source))], large, str(number))
    print(f"{args.output}: {args.output.stat().st_size / 1e9:.1f} GB, {number + 1} trajectories", flush=True)
    context = multiprocessing.get_context("spawn")
    report, rows = context.Queue(), []
    process = context.Process(target=train_limited, args=(args, report))
    process.start()
    try:
        for _ in range(3):
            rows.append(report.get(timeout=600))
            about = "update {update:4}: {seconds:6.1f} s after the start (file open after {read:.1f} s), "
            print((about + "own memory {RssAnon:.2f} GB, mapped pages in memory {RssFile:.2f} GB").format(**rows[-1]), flush=True)
        process.join()
    finally:
        process.kill()
        args.output.unlink()
    print(json.dumps({"what": "large-file", "gigabytes": args.gigabytes, "limit_gigabytes": args.limit_gigabytes, "rows": rows}))


# ---- collect -----------------------------------------------------------------------------------------------------------------


@dataclass
class Collect:
    """frames/s of collection"""

    task: str = "cheetah-run"
    """dm_control task"""
    difficulty: Literal["vanilla", "easy", "medium", "hard", "scale_easy_video_hard"] = "scale_easy_video_hard"
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


def play(args: Collect, default: bool, steps: int, video: np.ndarray, barrier, results):
    """A process: plays random actions, puts (steps per second, the first pictures) into the queue."""
    if default:
        import shimmy
        from dm_control import suite

        collect_data.load_task = lambda task: shimmy.DmControlCompatibilityV0(suite.load(*task.split("-")))
    scale, number = collect_data.DIFFICULTIES[args.difficulty]
    videos = [] if number == 0 else [video]
    env = collect_data.DistractingControl(collect_data.load_task(args.task), scale, scale, videos)
    if default:
        env.camera = env.physics
        env.physics.render = lambda render=env.physics.render: render(collect_data.IMG_HW, collect_data.IMG_HW, camera_id=0)
    actions = np.random.default_rng(args.seed).uniform(-1, 1, (steps, *env.action_space.shape))
    env.reset(seed=args.seed)
    pictures = np.stack([env.step(action)[0] for action in actions[: args.compared_steps]])  # also the warm-up
    env.reset(seed=args.seed)
    barrier.wait()
    started = time.perf_counter()
    for action in actions:
        env.step(action)
    results.put((steps / (time.perf_counter() - started), pictures))


def measure(args: Collect, default: bool, workers: int, steps: int, video: np.ndarray) -> tuple[float, np.ndarray]:
    """Frames per second of all processes together, and the pictures of one."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.Queue()
    threads = {"LP_NUM_THREADS": os.environ.pop("LP_NUM_THREADS")} if default else {}  # Mesa's own choice
    processes = [context.Process(target=play, args=(args, default, steps, video, barrier, results)) for _ in range(workers)]
    for process in processes:
        process.start()
    os.environ.update(threads)
    measured = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(speed for speed, _ in measured), measured[0][1]


def measure_collection(args: Collect):
    collect_data.pick_rendering_backend()
    print("drawing a background video …", file=sys.stderr)
    fine = collect_data.dead_leaves_video(args.seed, num_frames=8, size=800)
    size = (collect_data.SKY_HW, collect_data.SKY_HW)
    coarse = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.BILINEAR)) for frame in fine])
    default_speed, default_pictures = measure(args, True, 1, args.default_steps, fine)
    single_speed, pictures = measure(args, False, 1, args.steps, coarse)
    speed, _ = measure(args, False, args.workers, args.steps, coarse)
    difference = np.abs(pictures.astype(float) - default_pictures).mean()
    print(f"{args.task}, {args.difficulty}, {os.environ['MUJOCO_GL']}, {os.cpu_count()} cores")
    print(f"{'default rendering, 1 process':34} {default_speed:8.1f} frames/s")
    print(f"{'ours, 1 process':34} {single_speed:8.1f} frames/s {single_speed / default_speed:6.1f} ×")
    print(f"{f'ours, {args.workers} processes':34} {speed:8.1f} frames/s {speed / default_speed:6.1f} ×")
    print(f"{'mean absolute pixel difference':34} {difference:8.2f} of 255")
    result = {"task": args.task, "difficulty": args.difficulty, "frames_per_second": round(speed, 1)}
    result["default_frames_per_second"] = round(default_speed, 1)
    result |= {"ratio": round(speed / default_speed, 2), "pixel_difference": round(difference, 3), "workers": args.workers}
    print(json.dumps(result))


if __name__ == "__main__":
    args = tyro.cli(Train | LargeFile | Collect, description=__doc__)
    {Train: measure_training, LargeFile: measure_large_file, Collect: measure_collection}[type(args)](args)
