"""LeRobot → HDF5: turns a LeRobot dataset into two files that every training script reads.

LeRobot keeps actions and states in parquet files, and pictures in mp4 videos. This script reads a local
folder of the layouts v2.0, v2.1 and v3.0. It needs pyarrow, and not the package lerobot.

    pip install pyarrow huggingface_hub
    hf download lerobot/pusht --repo-type dataset --local-dir pusht
    python examples/lerobot_to_hdf5.py pusht               # data/lerobot-pusht__train.hdf5 and …__val.hdf5
    python examples/lerobot_to_hdf5.py aloha --camera observation.images.top --eval-share 0.2

An episode becomes a trajectory. Its pictures are resized to 64×64 pixels; nothing of them is cut off.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import imageio.v3 as imageio
import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

try:
    from pyarrow import parquet
except ImportError:
    raise SystemExit("error: pyarrow is not installed: pip install pyarrow")

IMG_HW = 64  # height and width of an observation, pixels


@dataclass
class Args:
    folder: tyro.conf.Positional[Path]  # the dataset's folder, in which are meta, data and videos
    camera: str | None = None  # whose pictures are taken, by default the first's
    eval_share: float = 0.1  # share of the episodes for the evaluation file: a random choice, always the same
    output: Path = Path("data")  # folder for both files


def read_info(folder):
    """What the dataset says of its layout, its frame rate and its features."""
    path = folder / "meta/info.json"
    if not path.exists():
        raise SystemExit(f"error: {path} does not exist: give the folder of a LeRobot dataset")
    info = json.loads(path.read_text())
    if info["codebase_version"] not in ("v2.0", "v2.1", "v3.0"):
        raise SystemExit(f"error: {path}: layout {info['codebase_version']}: convert it to v2.1 or v3.0")
    if "action" not in info["features"]:
        raise SystemExit(f"error: {path}: no feature is called action: rename yours")
    return info


def pick_camera(camera, features):
    cameras = [name for name, feature in features.items() if feature["dtype"] == "video"]
    if not cameras:
        raise SystemExit("error: the dataset has no videos: pictures inside of parquet files are not read")
    if camera and camera not in cameras:
        raise SystemExit(f"error: --camera {camera}: the dataset has {', '.join(cameras)}")
    return camera or cameras[0]


def list_episodes(folder, info):
    """What the dataset says of each episode: its number, its length and, in v3.0, its place in the files."""
    if info["codebase_version"] != "v3.0":
        lines = (folder / "meta/episodes.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
    paths = sorted(folder.glob("meta/episodes/*/*.parquet"))
    return [row for path in paths for row in read_rows(path)]


def locate(template, info, camera, episode, place):
    """Path of an episode's file. In v2 it follows from the episode's number; v3.0 says it of each episode."""
    number = episode["episode_index"]
    return template.format(
        video_key=camera,
        episode_index=number,
        episode_chunk=number // info["chunks_size"],
        chunk_index=episode.get(f"{place}/chunk_index"),
        file_index=episode.get(f"{place}/file_index"),
    )


def read_rows(path, **selection):
    try:
        return parquet.read_table(path, **selection).to_pylist()
    except ValueError as error:  # truncated, or a pointer of Git LFS
        raise SystemExit(f"error: cannot read {path}: {str(error).splitlines()[0]}: download it again")


def read_video(path):
    """Yields the frames of a video, uint8 (64, 64, 3)."""
    try:
        for picture in imageio.imiter(path, plugin="pyav", thread_type="FRAME"):
            yield shrink(picture)
    except Exception as error:  # each codec has its own
        raise SystemExit(f"error: cannot read {path}: {error}: download it again")


def shrink(picture):
    return np.asarray(Image.fromarray(picture).resize((IMG_HW, IMG_HW)))


def read_episodes(folder, info, camera, episodes):
    """Yields the arrays and the attributes of each trajectory."""
    names = {"actions": "action", "states": "observation.state"}
    names = {name: column for name, column in names.items() if column in info["features"]}
    columns = ["frame_index", *names.values()]
    opened, position = None, 0  # the video that is being read, and its next frame
    for episode in episodes:
        number = episode["episode_index"]
        length = episode["length"]
        path = folder / locate(info["data_path"], info, camera, episode, "data")
        rows = read_rows(path, columns=columns, filters=[("episode_index", "==", number)])
        rows.sort(key=lambda row: row["frame_index"])

        video = folder / locate(info["video_path"], info, camera, episode, f"videos/{camera}")
        start = round(episode.get(f"videos/{camera}/from_timestamp", 0) * info["fps"])
        if video != opened or start < position:
            frames = read_video(video)
            opened, position = video, 0
        obs = list(itertools.islice(frames, start - position, start - position + length))
        position = start + length

        if not len(obs) == len(rows) == length:
            found = f"{len(obs)} frames in {video} and {len(rows)} rows in {path}"
            raise SystemExit(f"error: episode {number} has {found}, not {length}: download it again")
        arrays = {"obs": np.stack(obs)}
        for name, column in names.items():
            values = [row[column] for row in rows]
            arrays[name] = np.array(values, np.float32).reshape(length, -1)
        yield arrays, {"episode": number}


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
    info = read_info(args.folder)
    camera = pick_camera(args.camera, info["features"])
    episodes = list_episodes(args.folder, info)
    trajectories = read_episodes(args.folder, info, camera, episodes)
    write_files(args, "lerobot", args.folder.resolve().name, trajectories, len(episodes))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")
