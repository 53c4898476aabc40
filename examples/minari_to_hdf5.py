"""Minari → HDF5: turns a Minari dataset into two files that every training script reads.

Pictures are those that the dataset stores in its observations. Most datasets store none: --replay plays their
actions again in their own environment and renders it. It refuses a replay that does not see what is stored.

    pip install "minari[hf]"
    minari download mujoco/invertedpendulum/expert-v0
    MUJOCO_GL=egl python examples/minari_to_hdf5.py mujoco/invertedpendulum/expert-v0 --replay
    python examples/minari_to_hdf5.py my/pushing-v0 --pictures camera/front --states joints

The second command writes data/minari-mujoco-invertedpendulum-expert-v0__train.hdf5 and …__val.hdf5. An
episode becomes a trajectory. Its pictures are resized to 64×64 pixels; nothing of them is cut off.
"""

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

try:
    import minari
except ImportError:
    raise SystemExit("error: minari is not installed: pip install minari")

IMG_HW = 64  # height and width of an observation, pixels


@dataclass
class Args:
    dataset: tyro.conf.Positional[str]  # name of a dataset on this machine; `minari list local` shows them
    pictures: str | None = None  # which observation is the picture; by default the first one that can be
    states: str | None = None  # which observation becomes the states, which probes predict
    replay: bool = False  # render the pictures in the dataset's environment
    eval_share: float = 0.1  # share of the episodes for the evaluation file: a random choice, always the same
    output: Path = Path("data")  # folder for both files


def load_dataset(name):
    try:
        dataset = minari.load_dataset(name)
    except FileNotFoundError:
        raise SystemExit(f"error: {name} is not on this machine: minari download {name}")
    except (ImportError, ValueError) as error:  # a package is missing, or another Minari made it
        raise SystemExit(f"error: {name}: {error}")
    if not isinstance(dataset.action_space, gym.spaces.Box):
        raise SystemExit(f"error: {name}: its actions are {dataset.action_space}; only a Box can be learnt")
    return dataset


def flatten(observation, name=""):
    """The arrays of nested observations by their names: camera/front; the only array is `observation`."""
    if not isinstance(observation, dict):
        return {name or "observation": np.asarray(observation)}
    arrays = {}
    for key, value in observation.items():
        arrays |= flatten(value, f"{name}/{key}" if name else key)
    return arrays


def pick_pictures(name, arrays):
    pictures = [key for key, array in arrays.items() if array.dtype == np.uint8 and array.shape[3:] == (3,)]
    if not pictures:
        raise SystemExit(f"error: no uint8 (T, H, W, 3) among {', '.join(arrays)}: --replay renders pictures")
    if name and name not in pictures:
        raise SystemExit(f"error: --pictures {name}: the dataset has {', '.join(pictures)}")
    return name or pictures[0]


def recover_environment(dataset):
    try:
        return dataset.recover_environment(render_mode="rgb_array")
    except Exception as error:  # none is stored, or it is not installed: each package has its own
        raise SystemExit(f"error: --replay: {dataset.id} has no environment here: {error}")


def shrink(picture):
    return np.asarray(Image.fromarray(picture).resize((IMG_HW, IMG_HW)))


def replay(env, episode, stored, metadata):
    """Plays an episode again and renders what is seen: a list of uint8 (64, 64, 3)."""
    if metadata.get("seed") is None:
        raise SystemExit(f"error: --replay: episode {episode.id} has no seed")
    observation, _ = env.reset(seed=metadata["seed"], options=metadata.get("options"))
    pictures = []
    for step, action in enumerate(episode.actions):
        for name, array in flatten(observation).items():
            if not np.allclose(array, stored[name][step], rtol=1e-4, atol=1e-4):
                differs = f"episode {episode.id} is not what is stored from step {step} on"
                raise SystemExit(f"error: --replay: {differs}: install the versions that made the dataset")
        pictures.append(shrink(env.render()))
        observation, *_ = env.step(action)
    return pictures


def read_episodes(dataset, env, pictures, states):
    """Yields the arrays and the attributes of each trajectory."""
    all_metadata = dataset.storage.get_episode_metadata(dataset.episode_indices)
    for episode, metadata in zip(dataset, all_metadata):
        length = len(episode.actions)  # there is one observation more
        stored = flatten(episode.observations)
        if env:
            obs = replay(env, episode, stored, metadata)
        else:
            obs = [shrink(picture) for picture in stored[pictures][:length]]
        arrays = {"obs": np.stack(obs)}
        arrays["actions"] = np.float32(episode.actions).reshape(length, -1)
        if states:
            arrays["states"] = np.float32(stored[states][:length]).reshape(length, -1)
        yield arrays, {"episode": episode.id, "traj_return": episode.rewards.sum()}


def write_files(args, domain, task, trajectories, total):
    """Writes the training and the evaluation file. Both appear when both are whole."""
    num_eval = round(args.eval_share * total)
    if not 1 <= num_eval <= total - 2:
        found = f"{num_eval} of {total} episodes for evaluation: at least 1, and 2 for training"
        raise SystemExit(f"error: --eval-share {args.eval_share}: {found}")
    for_evaluation = np.random.default_rng(0).permutation(total)[:num_eval]

    args.output.mkdir(parents=True, exist_ok=True)
    paths = [args.output / f"{domain}-{task}__{split}.hdf5" for split in ("train", "val")]
    partials = [path.with_name(f"{path.name}.partial") for path in paths]
    for path in paths:
        if path.exists():
            raise SystemExit(f"error: {path} exists: remove it or give another --output")
    with h5py.File(partials[0], "w") as train_file, h5py.File(partials[1], "w") as eval_file:
        for file in (train_file, eval_file):
            file.attrs.update(domain_name=domain, task_name=task)
        for number, (arrays, attributes) in enumerate(tqdm(trajectories, total=total, unit="episode")):
            file = eval_file if number in for_evaluation else train_file
            group = file.create_group(str(len(file)))
            group.attrs.update(attributes)
            for name, array in arrays.items():
                group.create_dataset(name, data=array)
    for partial, path in zip(partials, paths):
        partial.rename(path)
        print(path)


def main(args):
    dataset = load_dataset(args.dataset)
    arrays = flatten(dataset[0].observations)
    if args.states and args.states not in arrays:
        raise SystemExit(f"error: --states {args.states}: the dataset has {', '.join(arrays)}")
    if args.pictures and args.replay:
        raise SystemExit("error: --pictures are stored and --replay renders: give one of the two")
    env, pictures = None, None
    if args.replay:
        env = recover_environment(dataset)
    else:
        pictures = pick_pictures(args.pictures, arrays)
    trajectories = read_episodes(dataset, env, pictures, args.states)
    write_files(args, "minari", args.dataset.replace("/", "-"), trajectories, len(dataset))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")
