"""The baseline, made slow enough to be caught in the middle of training."""

import time

from methods.base import Context, Loss, Method


class Slow(Method):
    """Options: pause, seconds a step."""

    pause: float = 0.3

    def losses(self, context: Context) -> dict[str, Loss]:
        time.sleep(self.pause)
        return {}
