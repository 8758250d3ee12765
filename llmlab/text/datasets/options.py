"""What the options of datasets may be."""

from llmlab.errors import ConfigError


def check_samples(
    max_seq_len: object, long_lines: object, shuffle: object, val_fraction: object, packed: object
) -> None:
    """Raise `ConfigError` with all that is wrong with the options of samples."""
    problems = [
        *size_problems("max_seq_len", max_seq_len),
        *choice_problems("long_lines", long_lines, ("split", "truncate")),
        *flag_problems(shuffle=shuffle, packed=packed),
        *fraction_problems(val_fraction),
    ]
    if problems:
        raise ConfigError(problems)


def size_problems(name: str, value: object) -> list[str]:
    """Return what is wrong with a size."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        return [f"{name}={value!r}: expected a whole number from 1"]
    return []


def choice_problems(name: str, value: object, choices: tuple[str, ...]) -> list[str]:
    """Return what is wrong with a choice."""
    if value not in choices:
        return [f"{name}={value!r}: expected {', '.join(choices[:-1])} or {choices[-1]}"]
    return []


def flag_problems(**flags: object) -> list[str]:
    """Return what is wrong with flags."""
    return [
        f"{name}={flag!r}: expected true or false"
        for name, flag in flags.items()
        if not isinstance(flag, bool)
    ]


def fraction_problems(value: object) -> list[str]:
    """Return what is wrong with `val_fraction`."""
    number = value if isinstance(value, int | float) else -1
    if isinstance(value, bool) or not 0 <= number < 1:
        return [f"val_fraction={value!r}: expected a number from 0 to below 1"]
    return []


def check_place(batch_size: int, start: int) -> None:
    """Raise `ValueError` for batches that can't be."""
    if batch_size < 1 or start < 0:
        raise ValueError(f"batch_size={batch_size}, start={start}: out of range")
