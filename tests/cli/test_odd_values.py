"""Laws of values on the command line that no run can use: one line, and nothing is made."""

import pytest
from command_line import complaint, wsiseg


@pytest.mark.parametrize("scale", ["1e-9", "0", "-1", "nan", "inf", "1e9"])
def test_a_scale_of_label_images_is_a_number_in_reason(tmp_path, scale):
    said = complaint(wsiseg("export", tmp_path, tmp_path / "a.ome.zarr", "--scale", scale), 2)
    assert "--scale must be 0.01 to 10000, got" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cores", [-1, 0])
def test_a_workflow_has_a_core(tmp_path, cores):
    said = complaint(wsiseg("workflow", "a.svs", tmp_path / "out", "--cores", cores), 2)
    assert f"--cores must be at least 1, got {cores}" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["export"], ["report"], ["features"], ["cohort"], ["info"], ["run"]]
)
def test_a_path_that_the_system_refuses_is_one_line(words, tmp_path):
    """A name of 300 characters, where a file or a folder is expected."""
    long = tmp_path / ("x" * 300)
    more = [tmp_path / "a.geojson"] if words == ["export"] else []
    result = wsiseg(*words, long, *more)
    assert result.exit_code in (1, 2)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("wsiseg: ")
    assert not list(tmp_path.iterdir())
