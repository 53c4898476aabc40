"""Environments that do not fit to what is learned here, for test_rehearsal.py: odd_environments:Grey-v0, …"""

import gymnasium as gym
import numpy as np


class Square(gym.Env):
    """Six actions and a picture of 64×64; episodes never end."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode=None, picture=(64, 64, 3), num_actions=6, fault=None):
        self.render_mode = render_mode
        self.picture = np.full(picture, 100, np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (num_actions,), np.float32)
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        if self.fault == "step":
            raise ZeroDivisionError("of this environment")
        return np.zeros(2, np.float32), 1.0, False, False, {}

    def render(self):
        return self.picture


KINDS = {
    "Square-v0": {},
    "RGBA-v0": {"picture": (64, 64, 4)},
    "Grey-v0": {"picture": (64, 64)},
    "Actions-v0": {"num_actions": 3},
    "Broken-v0": {"fault": "step"},
}
for name, kwargs in KINDS.items():
    gym.register(name, Square, kwargs=kwargs)
