import io
import sys

from rich.console import Console

from gate2static.doctor import as_json, doctor_table, examine


def test_doctor_says_how_to_get_a_library_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    finding = next(f for f in examine() if f.subject == "TensorRT")
    assert not finding.works
    assert "pip install 'gate2static[gpu]'" in finding.found

    screen = io.StringIO()
    Console(file=screen, width=200).print(doctor_table((finding,)))
    assert "gate2static[gpu]" in screen.getvalue(), "square brackets are text, not markup"


def test_doctor_finds_what_the_tests_run_on():
    by_subject = {finding["subject"]: finding for finding in as_json(examine())}
    assert by_subject["torch"]["works"]
    assert by_subject["ONNX Runtime"]["works"]
