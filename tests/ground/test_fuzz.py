"""Three hundred inputs that nobody meant; `python tests/support/fuzz.py` tries more."""

import fuzz
import pytest


@pytest.mark.slow
def test_what_nobody_meant_is_refused_or_done():
    failed, tried = fuzz.run(range(300), seed=0)
    assert not failed
    assert sum(tried.values()) == 300
    assert set(tried) == set(fuzz.KINDS)


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (1, "error: a defect"),
        (0, "Traceback (most recent call last):\nValueError: x"),
        (2, "error: TypeError: x; LLMLAB_DEBUG=1 shows the traceback"),
        (-11, ""),
        (137, ""),
    ],
)
def test_a_fault_is_told(code, err):
    assert fuzz.fault(code, err)


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 141])
def test_a_refusal_is_none(code):
    assert fuzz.fault(code, "error: lr=abc: expected a number") is None


def test_cases_come_from_their_number(tmp_path):
    for number in range(60):
        if fuzz.made(number, 7, tmp_path, "command") != fuzz.made(number, 7, tmp_path, "command"):
            pytest.fail(f"case {number} isn't the same twice")
    assert fuzz.made(0, 1, tmp_path, "command") != fuzz.made(0, 2, tmp_path, "command")
