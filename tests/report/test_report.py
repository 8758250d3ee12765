"""The picture and the line of a run's loss."""

import json
import logging
import math
import re
import xml.etree.ElementTree as ET

import pytest

from llmlab.report.loss import last_epoch_loss, loss_svg, sparkline, write_report
from llmlab.train.rows import read_rows

SVG = "{http://www.w3.org/2000/svg}"


def rows(losses, first=1):
    return [{"step": first + i, "loss": loss} for i, loss in enumerate(losses)]


def draw(tmp_path, rows, title="loss"):
    path = tmp_path / "loss.svg"
    loss_svg(rows, path, title)
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    assert (root.get("width"), root.get("height")) == ("720", "400")
    for each in root.iter():  # nothing is drawn outside
        for key, limit in (("x", 720), ("y", 400), ("cx", 720), ("cy", 400)):
            if each.get(key) is not None:
                assert 0 <= float(each.get(key)) <= limit
    assert "nan" not in path.read_text() and "inf" not in path.read_text()
    return root


def texts(root):
    return [each.text for each in root.iter(f"{SVG}text")]


def curves(root):
    paths = [each for each in root.iter(f"{SVG}path") if each.get("fill") == "none"]
    return [
        [tuple(map(float, point.split())) for point in path.get("d")[1:].split("L")]
        for path in paths
    ]


def test_curves_axes_and_labels(tmp_path):
    given = rows([8.0, 6.0, 4.0, 2.0, 0.5])
    given[1]["val_loss"], given[3]["val_loss"] = 7.0, 3.0
    root = draw(tmp_path, given, "tune: <loss> & more")
    shown = texts(root)
    assert shown[0] == "tune: <loss> & more"
    assert {"step", "nats per token", "training", "validation, lowest 3"} <= set(shown)
    assert {"0", "2", "4", "6", "8"} <= set(shown)  # the y axis begins at zero
    training, _, validation = curves(root)
    assert len(training) == 5 and len(validation) == 2
    assert [x for x, _ in training] == sorted(x for x, _ in training)
    assert [y for _, y in training] == sorted(y for _, y in training)  # falling loss, growing y
    assert training[0][1] == 64 and validation[0][0] == training[1][0]
    dots = [each for each in root.iter(f"{SVG}circle") if each.get("fill") == "#d0661b"]
    assert len(dots) == 3  # two points, and the legend's


def labels_of_y(root):
    found = [each for each in root.iter(f"{SVG}text") if each.get("text-anchor") == "end"]
    return [float(each.text.replace(",", "")) for each in found]


@pytest.mark.parametrize(("low", "high"), [(1.9, 7.3), (2.0, 2.3), (0.01, 0.06), (101.0, 900.0)])
def test_the_y_axis_fits_the_curve(tmp_path, low, high):
    losses = [high - (high - low) * i / 99 for i in range(100)]
    root = draw(tmp_path, rows(losses))
    labels = labels_of_y(root)
    tick = labels[1] - labels[0]
    assert low - tick < labels[0] <= low and high <= labels[-1] < high + tick
    training = curves(root)[0]
    heights = [y for _, y in training]
    assert max(heights) - min(heights) > 0.7 * (346 - 64)


@pytest.mark.parametrize("count", [7, 60, 1000])
def test_the_mean_has_no_kink_where_it_begins(tmp_path, count):
    """A line's mean is the line itself, from its first point to its last."""
    training, mean = curves(draw(tmp_path, rows([9.0 - i * 8 / count for i in range(count)])))
    begin, end = training[0], training[-1]
    slope = (end[1] - begin[1]) / (end[0] - begin[0])
    assert len(mean) > 0.9 * len(training)
    for x, y in mean:
        assert y == pytest.approx(begin[1] + slope * (x - begin[0]), abs=0.2)


def test_the_mean_smooths(tmp_path):
    noisy = [5.0 + (-1) ** i for i in range(1000)]
    _, mean = curves(draw(tmp_path, rows(noisy)))
    heights = [y for _, y in mean]
    assert max(heights) - min(heights) < 20


def test_one_row_is_a_dot(tmp_path):
    root = draw(tmp_path, rows([2.5]))
    assert curves(root) == []
    assert len(list(root.iter(f"{SVG}circle"))) == 2


@pytest.mark.parametrize("loss", [0.0, 2.5, 1e-12, 1e12])
def test_a_constant_loss_is_a_level_line(tmp_path, loss):
    (training, _) = curves(draw(tmp_path, rows([loss] * 9)))
    assert len({y for _, y in training}) == 1 and 64 <= training[0][1] <= 346


def test_what_is_not_finite_is_left_out(tmp_path):
    root = draw(tmp_path, rows([3.0, math.nan, math.inf, None, "x", 1.0]))
    assert len(curves(root)[0]) == 2
    assert "nothing to show" in texts(draw(tmp_path, []))
    assert "nothing to show" in texts(draw(tmp_path, rows([math.nan])))


def test_thousands_of_rows_stay_small_and_keep_their_peaks(tmp_path):
    losses = [1.0 + 0.1 * math.sin(i) for i in range(30_000)]
    losses[12_345], losses[23_456] = 9.0, 0.2
    training = curves(draw(tmp_path, rows(losses)))[0]
    assert len(training) < 3_000
    assert (tmp_path / "loss.svg").stat().st_size < 100_000
    heights = [y for _, y in training]
    level = heights[0]
    assert sum(y < level - 100 for y in heights) == 1  # the one peak
    assert max(heights) > level + 15


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 2.5e4, 1e200])
def test_ticks_are_round_and_within(tmp_path, scale):
    root = draw(tmp_path, rows([scale * (1 + i) for i in range(20)], first=990))
    numbers = [text for text in texts(root) if re.fullmatch(r"[-+\d.,e]+", text)]
    assert 6 <= len(numbers) <= 18
    assert len(numbers) == len(set(numbers))


def test_sparkline():
    assert sparkline(range(8), encoding="utf-8") == "▁▂▃▄▅▆▇█"
    assert sparkline(range(8), encoding="ascii") == "_.-~=+*#"
    assert sparkline([8, 4, 0], encoding="latin-1") == "#=_"  # a coding without blocks
    assert sparkline([5, 5, 5], encoding="utf-8") == "▁▁▁"
    assert sparkline([math.nan, 1, math.inf, 0], encoding="utf-8") == "█▁"
    assert sparkline([]) == "" and sparkline([math.nan]) == ""
    assert sparkline([9, 7, 1, 3], width=2, encoding="utf-8") == "█▁"
    assert len(sparkline(range(1_000), encoding="utf-8")) == 40
    assert len(sparkline(range(39), encoding="no such coding")) == 39


def test_the_loss_of_a_run_is_its_last_epochs_mean_by_token():
    metrics = [
        {"epoch": 1, "tokens": 100, "loss": 9.0},
        {"epoch": 2, "tokens": 110, "loss": 4.0},
        {"epoch": 2, "tokens": 130, "loss": None},
        {"epoch": 2, "tokens": 160, "loss": 2.0},
    ]
    assert last_epoch_loss(metrics) == pytest.approx((10 * 4.0 + 30 * 2.0) / 40)
    assert last_epoch_loss(metrics[:1]) == 9.0
    assert last_epoch_loss([{"epoch": 3, "tokens": 5, "loss": math.nan}]) is None
    assert last_epoch_loss([]) is None


def test_a_report_is_written_and_told(tmp_path, caplog):
    lines = [json.dumps(row | {"epoch": 1, "tokens": row["step"]}) for row in rows([4.0, 2.0])]
    torn = '{"step": 3, "loss": 1.'
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, torn]), encoding="utf-8")
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 2
    with caplog.at_level(logging.INFO, "llmlab"):
        report = write_report(tmp_path, "tune")
    assert report.loss == 3.0 and len(report.sparkline) == 2
    assert (tmp_path / "report" / "loss.svg").exists()
    assert "tune loss 4" in caplog.text and report.sparkline in caplog.text


def test_the_validation_loss_is_told(tmp_path, caplog):
    given = rows([4.0, 3.0, 2.0])
    given[1]["val_loss"], given[2]["val_loss"] = 3.25, 3.5
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in given))
    with caplog.at_level(logging.INFO, "llmlab"):
        write_report(tmp_path, "tune")
    said = "tune validation loss 3.5000 at step 3, lowest 3.2500 at step 2"
    assert caplog.messages[-1] == said


def test_a_report_without_metrics(tmp_path):
    report = write_report(tmp_path, "tune")
    assert (
        report.loss is None
        and report.sparkline == ""
        and (tmp_path / "report" / "loss.svg").exists()
    )
