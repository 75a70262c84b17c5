"""Reports of evaluations: their JSON file, their table, their picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from keras_meanflow.files.atomic import write_text
from keras_meanflow.files.reading import check_fields, read_json, reading
from keras_meanflow.pictures.charts import curves

PAIRS = ("precision", "recall", "density", "coverage")
HEAD = ("", "FID", "95 % interval", "infinity", "KID", "95 % interval", *PAIRS, "IS")


def read_reports(path: str | Path) -> list[dict]:
    """The reports in a file of `write_reports`; an empty list if there is no such file.

    Raises:
        ValueError: for a damaged file, or one of something else.
    """
    path = Path(path)
    if not path.is_file():
        return []
    content = read_json(path)
    check_fields(path, content, {"reports": list})
    with reading(path):  # what the table and the picture show must be there
        reports = content["reports"]
        if reports:
            table(reports)
        _ = [(r["subject"], r["nfe"]) for r in reports if r["subject"] == "samples"]
        return reports


def write_reports(path: str | Path, reports: Sequence[dict]) -> None:
    """Write reports as JSON; the folder is created if absent."""
    path, text = Path(path), json.dumps({"reports": reports}, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def merged(reports: Sequence[dict], new: dict) -> list[dict]:
    """The reports and a new one, without reports that it replaces or that have another setting."""
    kept = [report for report in reports if _go_together(report, new)]
    return sorted([*kept, new], key=lambda report: (report["subject"], report.get("steps", 0)))


def _go_together(old, new):
    if old["protocol"] != new["protocol"]:
        return False
    if old["subject"] != new["subject"]:
        return True
    same = all(old.get(name) == new.get(name) for name in ("reference", "model"))
    return same and old.get("steps") != new.get("steps")


def table(reports: Sequence[dict]) -> str:
    """Reports as lines of text: the protocol, one row a report, the warnings."""
    rows = [HEAD, *map(_row, reports)]
    used = [any(row[i] for row in rows[1:]) for i in range(len(HEAD))]
    rows = [[cell for cell, use in zip(row, used, strict=True) if use] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_protocol(reports[0])]
    for first, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    warnings = dict.fromkeys(text for report in reports for text in report["warnings"])
    return "\n".join([*lines, *(f"Note: {text}" for text in warnings)])


def _protocol(report):
    protocol = report["protocol"]
    return (
        f"{protocol['name']}: {protocol['features']} features (resize {protocol['resize']}) of "
        f"{protocol['samples']:,} samples, labels {protocol['labels']}, pixels rounded "
        f"{protocol['rounding']}, against {protocol['reference']}."
    )


def _row(report):
    fid, kid, score = report["fid"], report.get("kid"), report.get("inception_score")
    return (
        _name(report),
        f"{fid['value']:.4g}",
        _interval(fid),
        f"{fid['infinity']:.4g}",
        f"{kid['value']:.4g}" if kid else "",
        _interval(kid) if kid else "",
        *(f"{report[name]:.3f}" if name in report else "" for name in PAIRS),
        f"{score['mean']:.3g}" if score else "",
    )


def _name(report):
    if report["subject"] == "self-check":
        return f"self-check, {report['samples']:,} against {report['reference']['count']:,}"
    if report["subject"] != "samples":
        return report["subject"]
    return "1 step" if report["steps"] == 1 else f"{report['steps']} steps"


def _interval(estimate):
    low, high = estimate["interval"]
    return f"{low:.4g} to {high:.4g}"


def picture(reports: Sequence[dict]) -> Image.Image:
    """FID, and KID where it is measured, over the number of network evaluations (NFE)."""
    reports = [report for report in reports if report["subject"] == "samples"]
    measured = {name: [r[name] for r in reports if name in r] for name in ("fid", "kid")}
    whole = {name.upper(): found for name, found in measured.items() if len(found) == len(reports)}
    return curves(
        [report["nfe"] for report in reports],
        {name: [one["value"] for one in found] for name, found in whole.items()},
        intervals={name: [one["interval"] for one in found] for name, found in whole.items()},
        columns=len(whole),
        x_label="network evaluations (NFE)",
    )
