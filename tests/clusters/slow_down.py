"""A plug-in for tests: a callback that makes steps last as long as the environment says."""

import os
import time

from llmlab.train.fit import CALLBACKS, Callback


@CALLBACKS.register("slow_down")
class SlowDown(Callback):
    """Wait at each step; the numbers stay as they are."""

    def on_step(self, progress, result, row):
        """Wait."""
        time.sleep(float(os.environ.get("LLMLAB_TEST_PAUSE", "0")))
