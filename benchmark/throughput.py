"""How fast the scripts are on this machine, each measured beside something to compare it with, in one run.

    python benchmark/throughput.py collect                 # frames/s of collection against MuJoCo's default rendering settings
    python benchmark/throughput.py collect --task humanoid-walk --difficulty vanilla --workers 8

The default rendering is what dm_control does unasked: an offscreen buffer of 640×480, a shadow map of 2048², a sky of 800² pixels
per face that is uploaded at each step, fine spheres and capsules, a new camera object for each picture, and Mesa's own number of
threads; in one process. Ours are the settings of collect_data.py, in one process and in --workers processes. All have the same
distractors, those of --difficulty, and play the same episode. The pixel difference is the mean absolute difference of the same
states, 0 to 255; the background is drawn at 800² for the default and reduced to ours. The last line is one JSON object.
"""

import json
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import collect_data


@dataclass
class Args:
    what: tyro.conf.Positional[Literal["collect"]] = "collect"
    """what to measure"""
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


def play(args: Args, default: bool, steps: int, video: np.ndarray, barrier, results):
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


def measure(args: Args, default: bool, workers: int, steps: int, video: np.ndarray) -> tuple[float, np.ndarray]:
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


def main(args: Args):
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
    main(tyro.cli(Args, description=__doc__))
