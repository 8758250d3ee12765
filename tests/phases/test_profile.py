"""Phase `profile`: what it refuses. Its tables are tested with the other phases."""

from small_run import KEYS, finished_run, small_lab  # noqa: F401


def test_a_file_is_no_stage_to_profile(lab):
    answer = lab(*KEYS, "phase=profile", "on=good.txt")
    assert answer.code == 2
    assert answer.problems == [
        f"error: on={lab.folder}/good.txt: steps are profiled on a stage's text: pretrain or tune"
    ]
