"""Event files for TensorBoard."""

from pathlib import Path
from typing import Any

from llmlab.train.heat_map import png
from llmlab.train.trackers.base import TRACKERS, Tracker, needed


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """Event files in the run's folder, for TensorBoard; needs the package tensorboardX.

    After a resume, TensorBoard hides what the files before it have from its first step on.
    """

    def __init__(self, folder: Path):
        self._package, self._folder = needed("tensorboardX", "tensorboard"), folder / "tensorboard"
        self._writer: Any = None

    def log(self, step, values):
        """Write each value under its name."""
        writer = self._opened(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def picture(self, step, name, pixels):
        """Write the picture as a PNG file."""
        # By itself, add_image asks for a package that encodes pictures.
        summary = needed("tensorboardX.proto.summary_pb2", "tensorboard").Summary
        height, width, _ = pixels.shape
        image = summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png(pixels)
        )
        whole = summary(value=[summary.Value(tag=name, image=image)])
        self._opened(step).file_writer.add_summary(whole, step)

    def text(self, step, name, text):
        """Write the text as it is: indented, since TensorBoard reads Markdown."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        self._opened(step).add_text(name, indented, step)

    def flush(self):
        """Write what is in memory."""
        if self._writer is not None:
            self._writer.flush()

    def finish(self):
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self, step: int) -> Any:
        if self._writer is None:
            # A resumed run does the steps after its checkpoint again; their first rows are dropped.
            self._writer = self._package.SummaryWriter(str(self._folder), purge_step=step)
        return self._writer
