"""Weights from files that are somebody else's."""

import pickle
from pathlib import Path

import torch


def load(path, trusted):
    """What a file of PyTorch's holds: a dictionary of tensors, or with `trusted` anything.

    A file that holds more than tensors is a program: reading it runs it.
    """
    path = Path(path)
    if not path.is_file():
        raise SystemExit(f"{path}: there is no such file; give the file of weights that you have")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        first = str(error).splitlines()[0]
        raise SystemExit(
            f"{path}: holds more than tensors, and reading it would run what it holds ({first}). If you trust where it "
            "is from, say --trust-pickle"
        ) from error


def state_of(loaded):
    """The tensors by name of a module, a checkpoint of one, or a dictionary."""
    if hasattr(loaded, "state_dict"):
        # Modules pickled by old versions lack this.
        for module in loaded.modules():
            if not hasattr(module, "_non_persistent_buffers_set"):
                module._non_persistent_buffers_set = set()
        return loaded.state_dict()
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            return loaded[key]
    return loaded


def fill(network, state, path, ignore=()):
    """Loads `state` in full: what is missing, left over or of another shape stops the export by name."""
    own = network.state_dict()
    skipped = lambda name: name.endswith("num_batches_tracked") or name in ignore
    missing = [name for name in own if name not in state and not skipped(name)]
    unknown = [name for name in state if name not in own and not skipped(name)]
    wrong = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own if name in state and state[name].shape != own[name].shape
    ]
    for words, names in (("lacks", missing), ("has besides", unknown), ("has in another shape", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise SystemExit(f"{path}: is not this network: it {words} {', '.join(names[:3])}{more}")
    network.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    return network.eval()
