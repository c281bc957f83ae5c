"""Laws of `wsiseg synth`."""

from __future__ import annotations

from command_line import complaint, wsiseg


def test_synth_is_the_same_for_the_same_seed(made, tmp_path):
    args = ("--size", 768, "--seed", 3, "--tissue", 0.9, "--quiet")
    assert wsiseg("synth", tmp_path / "a.svs", *args).output == ""
    for name in ("a.svs", "a.truth.geojson.gz", "a.truth-cells.geojson.gz"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_synth_faults(tmp_path):
    assert ".svs" in complaint(wsiseg("synth", tmp_path / "a.tif"), 2)
    assert "0.2 to 0.5" in complaint(wsiseg("synth", tmp_path / "a.svs", "--mpp", "0.2-0.5"), 2)
    assert "'big'" in complaint(wsiseg("synth", tmp_path / "a.svs", "--mpp", "big"), 2)
    assert "square" in complaint(wsiseg("synth", tmp_path, "--fields", 2, "--width", 9), 2)
    assert "at least 1, got -1" in complaint(wsiseg("synth", tmp_path, "--fields", -1), 2)
    assert "one look" in complaint(wsiseg("synth", tmp_path / "a.svs", "--look", "mixed"), 2)
    assert "'old'" in complaint(wsiseg("synth", tmp_path / "a.svs", "--look", "old"), 2)
    assert "--fields" in complaint(wsiseg("synth", tmp_path / "a.svs", "--two-classes"), 2)
    for size in (0, -5, 600_000, 10**8, 10**20):
        for option in ("--size", "--width"):
            said = complaint(wsiseg("synth", tmp_path / "a.svs", option, size), 2)
            assert f"{size} ×" in said
        assert f"got {size}" in complaint(
            wsiseg("synth", tmp_path, "--fields", 1, "--size", size), 2
        )
    for seed in (-1, -(2**70)):
        for more in ((tmp_path / "a.svs",), (tmp_path, "--fields", 1)):
            assert f"got {seed}" in complaint(wsiseg("synth", *more, "--seed", seed), 2)
    (tmp_path / "taken").touch()
    assert not list(tmp_path.glob("a.*"))
    inside = tmp_path / "taken" / "a.svs"
    for more in ((inside, "--size", 256), (tmp_path / "taken", "--fields", 1)):
        assert "taken is a file; give another folder" in complaint(wsiseg("synth", *more), 2)


def test_synth_makes_slides_and_fields_that_look_real(tmp_path):
    size = ("--size", 256, "--mpp", 0.5, "--look", "real", "--quiet")
    assert wsiseg("synth", tmp_path / "a.svs", *size, "--tissue", 1).exit_code == 0
    assert (tmp_path / "a.truth-cells.geojson.gz").is_file()
    assert wsiseg("synth", tmp_path / "new" / "f", *size, "--fields", 2).exit_code == 0
    assert "leukocyte_nucleus" in (tmp_path / "new/f/annotations.json").read_text()
