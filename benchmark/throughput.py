"""How fast the training stages are on this machine.

    python benchmark/throughput.py                         # every stage, small networks
    python benchmark/throughput.py --sizes paper           # the paper's networks and batches: for a GPU
    python benchmark/throughput.py --sizes paper --stages laom.lam --flags="--no-compile"

Each stage runs in a process of its own on the data of `collect_data.py demo`; nothing is logged or saved. It
prints transitions/s; TFLOP/s of convolutions and matrix products, forward and backward, as PyTorch counts
them; peak memory; and seconds from the start to the end of the first update, with reading the file and
compilation. The last line is one JSON object. docs/speed.md has what was measured.
"""

import concurrent.futures
import contextlib
import importlib
import json
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the scripts are

STAGES = ("lapo.lam", "laom.lam", "laom_supervised.lam", "idm.idm", "lapo.bc", "laom.bc", "idm.bc", "bc.bc")
WARM_UP = 3  # updates that are not timed
OF_BC = "--bc.batch-size 256 --bc.encoder-scale 2"
OF_LAM = f"{OF_BC} --lam.batch-size 256"
REFERENCE_FLAGS = {  # what the demo has otherwise
    "lapo": OF_LAM,
    "laom": f"{OF_LAM} --lam.use-aug",
    "laom_supervised": f"{OF_LAM} --lam.use-aug --lam.labeled-batch-size 64 --lam.latent-action-dim 256",
    "idm": f"{OF_BC} --idm.batch-size 256",
    "bc": OF_BC,
}


@dataclass
class Args:
    sizes: Literal["reference", "paper"] = "reference"  # small ones for a CPU (below), or Appendix F's
    stages: tuple[Literal[STAGES], ...] = STAGES  # script.stage of what to measure
    num_updates: int = 30  # updates that are timed, after three that are not
    data: str = "data/cheetah-run__scale_easy_video_hard__repeat4__noise0.8__train.hdf5"  # training file
    flags: str = ""  # further arguments of the scripts, with an equals sign: --flags="--device cpu"


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
    sizes = ["demo", *REFERENCE_FLAGS[name].split()] if own.sizes == "reference" else ["paper"]
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
    elif name in ("idm", "bc"):  # whose actors differ in where their labels come from
        index = data.transitions(data.shuffle)
        units = method.units_of(data.task, data.actions)
        labels = data.actions[index].to(args.device)
        method.train_actor(args, data, index, labels, *units, 10**6, "actor_all", run)
    else:
        lam = method.LAM(args.lam, args.frame_stack)
        lam = lam.to(args.device, memory_format=torch.channels_last).requires_grad_(False)
        method.train_actor(args, data, lam, "actor", run)


def measure(stage: str, own: Args) -> dict[str, float]:
    """Speed and memory of a stage; to be called in a fresh process."""
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
    seconds = (run.ended - run.began) / own.num_updates
    return {
        "transitions_per_second": getattr(args, stage.split(".")[1]).batch_size / seconds,
        "tflops": counter.get_total_flops() / seconds / 1e12,
        "peak_memory_gb": memory / 1e9,
        "first_update_seconds": run.first_update - started,
    }


def main(own: Args):
    if not Path(own.data).exists():
        made = "`python collect_data.py demo` makes one, --data names another"
        raise SystemExit(f"error: no file {own.data}; {made}")
    print(f"{'stage':20} {'transitions/s':>13} {'TFLOP/s':>8} {'memory':>9} {'1st update':>11}")
    report = {}
    context = multiprocessing.get_context("spawn")
    for stage in own.stages:
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            result = pool.submit(measure, stage, own).result()
        speed, tflops, memory, first = result.values()
        print(f"{stage:20} {speed:13.0f} {tflops:8.3f} {memory:6.1f} GB {first:9.1f} s", flush=True)
        report[stage] = {name: round(value, 3) for name, value in result.items()}
    print(json.dumps({"sizes": own.sizes, "stages": report}))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
