"""How fast the training stages are on this machine, and where the time goes.

    python benchmark/throughput.py                         # transitions/s of every stage, small networks
    python benchmark/throughput.py --sizes paper           # the paper's networks and batches: for a GPU
    python benchmark/throughput.py --sizes paper --no-shares --flags="--no-compile" --stages laom.lam

Each stage runs in a process of its own on the data of `collect_data.py demo`; nothing is logged or saved. It
is measured as it is: transitions/s, peak memory, and seconds from the start to the end of the first update,
with reading the file and compilation. Then it runs again under Python's profiler, which tells the time inside
the functions of PARTS: data (gather frames, make the networks' input), augmentation, forward, backward and
optimiser. The rest is losses, schedule, sampling and LAOM's slow copy. There every CUDA kernel is waited for
where it is launched. FLOPs are those of convolutions and matrix products, forward and backward, counted by
PyTorch; the ceiling is the best rate of a large matrix product, measured here before the stages.

--sizes reference: batch 256, encoder scale 1 with 1 residual block, heads 256, z 256, actor scale 2, 64
labelled, augmentation. docs/speed.md has what was measured. The last line is one JSON object.
"""

import concurrent.futures
import contextlib
import cProfile
import importlib
import json
import multiprocessing
import os
import pstats
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the scripts are

STAGES = ("lapo.lam", "laom.lam", "laom_supervised.lam", "idm.idm", "lapo.bc", "laom.bc", "idm.bc", "bc.bc")
WARM_UP = 3  # updates that are not timed
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
    "optimiser": [("torch/optim/adam.py", "step"), ("torch/optim/optimizer.py", "zero_grad")],
}


@dataclass
class Args:
    sizes: Literal["reference", "paper"] = "reference"
    """of networks and batches: small ones for a CPU (see above), or Appendix F's"""
    stages: tuple[Literal[STAGES], ...] = STAGES
    """script.stage of what to measure"""
    num_updates: int = 30
    """updates that are timed, after three that are not"""
    data: str = "data/cheetah-run__scale_easy_video_hard__repeat4__noise0.8__train.hdf5"
    """training file"""
    shares: bool = True
    """also where an update's time goes, in a second process for each stage"""
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

    def say(self, text: str):
        pass


def load(stage: str, own: Args):
    """The script of a stage as a module, and its arguments at the sizes asked for."""
    name = stage.split(".")[0]
    method = importlib.import_module(name)
    sizes = ["demo", *REFERENCE_FLAGS[name]] if own.sizes == "reference" else ["paper"]
    budget = "all" if name == "bc" else "8"
    flags = ["--num-labeled-trajectories", budget, "--data", own.data, *own.flags.split()]
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
        method.train_actor(args, data, data.transitions(data.shuffle), 10**6, "actor_all", run)
    else:
        if name == "idm":
            network = method.IDM(args.idm, args.frame_stack, data.actions.shape[1])
        else:
            network = method.LAM(args.lam, args.frame_stack)
        network = network.to(args.device, memory_format=torch.channels_last).requires_grad_(False)
        method.train_actor(args, data, network, "actor", run)


def measure_speed(stage: str, own: Args) -> dict:
    """Speed and memory of a stage, and the FLOPs of its updates; to be called in a fresh process."""
    started = time.perf_counter()
    method, args = load(stage, own)
    run = ShortRun(own.num_updates, args.device)
    train_stage(stage, method, args, run)
    if args.device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    args.compile = False
    counter = FlopCounterMode(display=False)
    train_stage(stage, method, args, ShortRun(1, args.device, counter))
    batch_size = getattr(args, stage.split(".")[1]).batch_size
    return {
        "transitions_per_second": round(batch_size * own.num_updates / (run.ended - run.began), 1),
        "first_update_seconds": round(run.first_update - started, 1),
        "peak_memory_gb": round(memory / 1e9, 2),
        "dtype": str(args.dtype).split(".")[1],
        "gflop_per_transition": round(counter.get_total_flops() / batch_size / 1e9, 3),
    }


def measure_shares(stage: str, own: Args) -> dict[str, float]:
    """The parts of an update as shares of its time; to be called in a fresh process."""
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"  # a call's time includes that of its kernels
    method, args = load(stage, own)
    profile = cProfile.Profile()
    run = ShortRun(own.num_updates, args.device, profile)
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


def measure_ceiling(own: Args) -> dict:
    """The best rate of a square matrix product, GFLOP/s; to be called in a fresh process."""
    _, args = load(own.stages[0], own)
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


def in_fresh_process(function: Callable, *args):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()


def main(own: Args):
    if not Path(own.data).exists():
        made = "`python collect_data.py demo` makes one, --data names another"
        raise SystemExit(f"error: no file {own.data}; {made}")
    ceiling = in_fresh_process(measure_ceiling, own)
    rates = f"{ceiling['bfloat16']:.0f} GFLOP/s in bfloat16, {ceiling['float32']:.0f} in float32"
    print(f"{ceiling['device']}: matrix product {rates}\n")
    columns = f"{'stage':20} {'transitions/s':>13} {'of ceiling':>10} {'1st update':>10} {'memory':>8}"
    parts = [*PARTS, "rest"] if own.shares else []
    print(columns + "".join(f"{part:>13}" for part in parts))
    stages = {}
    for stage in own.stages:
        result = in_fresh_process(measure_speed, stage, own)
        result["shares"] = in_fresh_process(measure_shares, stage, own) if own.shares else {}
        speed = result["transitions_per_second"]
        ceiling_fraction = speed * result["gflop_per_transition"] / ceiling[result["dtype"]]
        result["ceiling_fraction"] = round(ceiling_fraction, 3)
        stages[stage] = result
        row = f"{stage:20} {speed:13.0f} {ceiling_fraction:>10.0%} {result['first_update_seconds']:>8.1f} s"
        row += f" {result['peak_memory_gb']:>5.1f} GB"
        print(row + "".join(f"{share:>13.0%}" for share in result["shares"].values()), flush=True)
    print(json.dumps({"sizes": own.sizes, "ceiling_gflops": ceiling, "stages": stages}))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError, MemoryError, concurrent.futures.process.BrokenProcessPool) as error:
        raise SystemExit(f"error: {str(error) or type(error).__name__}")
