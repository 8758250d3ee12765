"""What TensorBoard shows of event files."""

import struct
from pathlib import Path
from typing import Any


def shown(folder: Path) -> dict[tuple[int, str], Any]:
    """Return values by step and name, without what the start of a later file hides.

    A value that comes twice is an error. A record that a kill has torn ends its file.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[tuple[int, str], Any] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            end = at + 16 + size  # the length, its checksum, the event, its checksum
            if end > len(data):
                break
            event = Event.FromString(data[at + 12 : end - 4])
            at = end
            if event.session_log.status == SessionLog.START:
                found = {key: value for key, value in found.items() if key[0] < event.step}
            for each in event.summary.value:
                assert (event.step, each.tag) not in found
                found[event.step, each.tag] = _value(each)
    return found


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "image":
        return value.image.encoded_image_string
    return value.tensor.string_val[0].decode() if kind == "tensor" else value.simple_value
