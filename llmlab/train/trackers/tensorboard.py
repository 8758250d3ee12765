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
        self._was_open = False

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
        """End the event file; the next value begins another one.

        Only closing waits for what tensorboardX still has in its queue.
        """
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self):
        """Close the event file."""
        self.flush()

    def _opened(self, step: int) -> Any:
        if self._writer is None:
            # A resumed run does the steps after its checkpoint again; their first rows are dropped.
            purge = None if self._was_open else step
            name = f".{step:09d}"  # files of one second would have one name
            self._writer = self._package.SummaryWriter(
                str(self._folder), purge_step=purge, filename_suffix=name
            )
            self._was_open = True
        return self._writer
