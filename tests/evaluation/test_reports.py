"""Reports of evaluations: which replace each other, their table and their picture."""

from keras_meanflow.evaluation import Protocol
from keras_meanflow.evaluation.reports import merged, picture, table

FIELDS = {"samples": 130, "labels": "balanced", "reference": "digits:test"}


def fake_report(steps, fid, **changes):
    base = {"subject": "samples", "steps": steps, "nfe": steps, "samples": 9, "warnings": []}
    base |= {"protocol": {**Protocol(features="f", resize="none", weights="", **FIELDS).to_dict()}}
    base |= {"reference": {"count": 7}, "model": {"step": 1}}
    base["fid"] = {"value": fid, "interval": [fid - 1, fid + 1], "infinity": fid}
    return {**base, **changes}


def test_reports_that_do_not_go_together_replace_each_other():
    one, two = fake_report(1, 5.0), fake_report(2, 4.0)
    assert merged(merged([], two), one) == [one, two]
    assert merged([one, two], fake_report(2, 3.0)) == [one, fake_report(2, 3.0)]
    later = fake_report(1, 2.0, model={"step": 9})
    assert merged([one, two], later) == [later]
    check = fake_report(0, 1.0, subject="self-check", reference={"count": 3})
    assert merged([one], check) == [one, check]
    other = fake_report(2, 3.0, protocol={**one["protocol"], "samples": 10})
    assert merged([one, check], other) == [other]


def test_the_table_says_protocol_numbers_and_warnings():
    reports = [fake_report(1, 12.3456), fake_report(4, 2.0, warnings=["beware"])]
    first, head, one, four, note = table(reports).splitlines()
    assert "130 samples, labels balanced, pixels rounded nearest, against digits:test" in first
    assert head.split()[:2] == ["FID", "95"] and "KID" not in head
    assert one.split() == ["1", "step", "12.35", "11.35", "to", "13.35", "12.35"]
    assert four.startswith("4 steps") and note == "Note: beware"


def test_the_picture_has_a_panel_for_each_metric():
    kid = {"kid": {"value": 0.1, "interval": [0.0, 0.2]}}
    assert (
        picture([fake_report(1, 5.0), fake_report(2, 4.0)]).width * 2
        == picture([fake_report(1, 5.0, **kid), fake_report(2, 4.0, **kid)]).width
    )
