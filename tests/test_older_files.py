"""Files that version 0.1 wrote before its modules moved still load, and still compute the same function."""

from pathlib import Path

import gate2static as g2s
from gate2static.train import load_gated

WRITTEN_BY_0_1 = Path(__file__).parent / "fixtures" / "written_by_0_1"


def test_an_older_checkpoint_prunes_to_what_the_older_static_network_is() -> None:
    gated, *_ = load_gated(WRITTEN_BY_0_1 / "ckpt.pt")
    older = g2s.load_static(WRITTEN_BY_0_1 / "static")

    newer = g2s.prune(gated, target="ort-cpu")

    assert newer.manifest.gates == older.manifest.gates
    assert newer.manifest.macs == older.manifest.macs
    assert newer.manifest.parameters == older.manifest.parameters
    assert g2s.verify(gated, older).passed
    assert g2s.verify(gated, newer).passed


def test_an_older_static_network_takes_its_place_when_saved_again(tmp_path: Path) -> None:
    older = g2s.load_static(WRITTEN_BY_0_1 / "static")

    older.save(tmp_path / "static")

    for name in ("graph.json", "weights.safetensors"):
        assert (tmp_path / "static" / name).read_bytes() == (WRITTEN_BY_0_1 / "static" / name).read_bytes()
