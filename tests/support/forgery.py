"""Checkpoints whose seal is right and whose content isn't."""

import hashlib
import json
import zipfile

import numpy as np

from llmlab.checkpoints import format as checkpoint_format


def forge(path, arrays, change=lambda manifest: None, members=None, compression=0):
    """Write a file whose seal is right and whose content isn't."""
    manifest = {"format": checkpoint_format.FORMAT, "arrays": {}, "meta": {}}
    stored = {}
    for name, array in arrays.items():
        stored[f"{name}.npy"] = npy(array)
        sha256 = hashlib.sha256(array.tobytes()).hexdigest()
        entry = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": sha256}
        manifest["arrays"][name] = entry
    change(manifest)
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    stored |= members or {}
    stored["manifest.npy"] = npy(np.frombuffer(text, "u1"))
    stored["manifest.sha256.npy"] = npy(np.frombuffer(hashlib.sha256(text).digest(), "u1"))
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in stored.items():
            archive.writestr(name, data)


def npy(array):
    return checkpoint_format._npy_header(array.dtype.str, array.shape) + array.tobytes()


def entry(**changes):
    return lambda manifest: manifest["arrays"]["w"].update(changes)
