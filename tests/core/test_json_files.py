"""JSON of others: nested without end, of another shape, with numbers that no table holds."""

import pytest

from wsi_pipeline.core.errors import DataError, OutputError, SlideReadError, UsageError
from wsi_pipeline.core.json_files import MAX_JSON_BYTES, check_values, read_json
from wsi_pipeline.core.run_layout import read_run
from wsi_pipeline.formats._geojson_regions import read_regions
from wsi_pipeline.formats.geojson import read_geojson

DEEP = ["[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900, "[" * 300 + "]" * 300]


@pytest.mark.parametrize("text", DEEP, ids=range(4))
@pytest.mark.parametrize("read", [read_geojson, read_regions, lambda path: read_run(path.parent)])
def test_json_that_is_nested_without_end_is_refused_in_one_line(read, text, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"run\.json") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_collections_in_collections_are_refused(tmp_path):
    path = tmp_path / "a.geojson"
    inner = '{"type":"GeometryCollection","geometries":[' * 200 + "]}" * 200
    path.write_text(f'{{"type":"Feature","geometry":{inner},"properties":{{}}}}')
    for read in (read_geojson, read_regions):
        with pytest.raises(DataError, match=r"a\.geojson"):
            read(path)


def test_a_huge_or_strange_record_is_not_read(tmp_path):
    path = tmp_path / "record.json"
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    for place in (path, tmp_path):
        with pytest.raises((ValueError, OSError)):
            read_json(place)


@pytest.mark.parametrize("half", [r"\ud800", r"\uDFFF", r"a\ud83d\n\ude00"])
def test_half_of_a_character_is_refused_and_a_whole_one_read(tmp_path, half):
    """JSON can hold it, but no other file that a text of a record goes into."""
    path = tmp_path / "a.json"
    for text in (f'"{half}"', f'{{"a": [{{"{half}": 1}}]}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="half of a character"):
            read_json(path)
    path.write_text(r'["\ud83d\ude00", "\\ud800"]')
    assert read_json(path) == ["😀", r"\ud800"]


def test_yaml_that_multiplies_is_refused(tmp_path):
    bomb: list[object] = ["x"] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    itself: list[object] = []
    itself.append(itself)
    for value in (bomb, itself, {"a": {"b": bomb}}):
        with pytest.raises(ValueError, match="more than 100000 values"):
            check_values(value)


@pytest.mark.parametrize("error", [DataError, SlideReadError, UsageError, OutputError])
def test_an_error_is_one_line_whatever_a_file_holds(error):
    assert str(error("a\n\0\ud800\x1b[2J größe")) == r"a \x00\ud800\x1b[2J größe"
    assert str(error("größe 1–2 µm")) == "größe 1–2 µm"
