"""Event files for TensorBoard."""

import time
from pathlib import Path
from typing import Any

from llmlab.train.heat_map import png
from llmlab.train.trackers.base import TRACKERS, Tracker, needed


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """An event file in the run's folder, for TensorBoard; needs the package tensorboardX.

    After a resume, TensorBoard hides what earlier files have from its first step on.
    """

    def __init__(self, folder: Path):
        needed("tensorboardX", "tensorboard")
        self._summary = needed("tensorboardX.summary", "tensorboard")
        self._events = needed("tensorboardX.proto.event_pb2", "tensorboard")
        self._folder = folder / "tensorboard"
        self._file: Any = None

    def log(self, step, values):
        """Write each value under its name."""
        for name, value in values.items():
            self._write(step, self._summary.scalar(name, value))

    def picture(self, step, name, pixels):
        """Write the picture as a PNG file."""
        # By itself, tensorboardX asks for a package that encodes pictures.
        summary = self._summary.Summary
        height, width, _ = pixels.shape
        image = summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png(pixels)
        )
        self._write(step, summary(value=[summary.Value(tag=name, image=image)]))

    def text(self, step, name, text):
        """Write the text as it is: indented, since TensorBoard reads Markdown."""
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        self._write(step, self._summary.text(name, indented))

    def flush(self):
        """Make the file durable."""
        if self._file is not None:
            self._file.flush()

    def finish(self):
        """Close the event file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, step: int, summary: Any) -> None:
        if self._file is None:
            self._file = self._opened(step)
        self._add(self._file, step, summary=summary)

    def _opened(self, step: int) -> Any:
        # Not SummaryWriter: its queue can only be waited for by closing it.
        writers = needed("tensorboardX.event_file_writer", "tensorboard")
        self._folder.mkdir(parents=True, exist_ok=True)
        # By itself the name has only the second, and TensorBoard reads files in their names' order.
        file = writers.EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        # A resumed run does the steps after its checkpoint again; their first rows are dropped.
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._add(file, step, session_log=start)
        return file

    def _add(self, file: Any, step: int, **content: Any) -> None:
        file.write_event(self._events.Event(wall_time=time.time(), step=step, **content))
