"""A file that exists is complete, whichever function writes it and wherever the writing fails."""

import gzip
import json
import os
from pathlib import Path

import pytest
from wsiseg_models.files import written_aside

from wsi_pipeline.core.errors import DataError, OutputError
from wsi_pipeline.core.files import (
    as_output_error,
    open_part,
    part_path,
    write_bytes,
    write_json,
    write_text,
)


def by_part_path(path):
    with part_path(path) as part:
        part.write_bytes(b"new")


def by_open_part(path):
    with open_part(path) as file:
        file.write(b"new")


def by_written_aside(path):
    with written_aside(path) as aside:
        aside.write_bytes(b"new")


WRITERS = {
    "part_path": by_part_path,
    "open_part": by_open_part,
    "written_aside": by_written_aside,
    "write_bytes": lambda path: write_bytes(path, b"new", durable=True),
    "write_text": lambda path: write_text(path, "new"),
    "write_json": lambda path: write_json(path, "new"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_replaced_as_a_whole(name, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    WRITERS[name](path)
    assert path.read_bytes().strip(b'"\n') == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_rename_leaves_the_old_file_alone(name, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail(source, target):
        raise PermissionError(13, "Permission denied", source)

    monkeypatch.setattr(os, "replace", fail)
    error = PermissionError if name == "written_aside" else OutputError
    with pytest.raises(error, match="Permission denied"):
        WRITERS[name](path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("writer", [part_path, open_part, written_aside])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, DataError])
def test_a_block_that_fails_leaves_nothing(writer, error, tmp_path):
    with pytest.raises(error), writer(tmp_path / "a.txt"):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_folder_is_written_aside_too(tmp_path):
    for fails in (True, False):
        try:
            with part_path(tmp_path / "a.zarr") as part:
                part.mkdir()
                (part / "0").touch()
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert not list(tmp_path.iterdir())
    assert [p.name for p in (tmp_path / "a.zarr").iterdir()] == ["0"]


def test_errors_have_path_cause_and_remedy_and_other_files_keep_theirs(tmp_path):
    missing = tmp_path / "none" / "a.txt"
    with pytest.raises(OutputError, match=r"a\.txt cannot be written \(No such file.*\); check"):
        write_text(missing, "")
    with pytest.raises(OutputError, match=r"; buy a disk$"):
        write_bytes(missing, b"", remedy="buy a disk")
    with pytest.raises(FileNotFoundError), part_path(tmp_path / "a.txt"):
        (tmp_path / "other").read_text()
    with pytest.raises(OutputError, match="cannot be written"), as_output_error(tmp_path):
        (tmp_path / "other").read_text()
    with pytest.raises(DataError), as_output_error(tmp_path):
        raise DataError("not an error of the file system")


@pytest.mark.parametrize("name", [".", "..", "a/..", "/"])
def test_a_name_that_is_a_folder_is_refused(name):
    with pytest.raises(OutputError, match="is a folder; give the name of a file"):
        write_bytes(Path(name), b"")


def test_json_is_ascii_and_gzip_has_no_time(tmp_path):
    write_json(tmp_path / "a.json", {"µm": "\udcff"})
    assert json.loads((tmp_path / "a.json").read_bytes().decode("ascii")) == {"µm": "\udcff"}
    for name in ("a.gz", "b.gz"):
        by_open_part(tmp_path / name)
    content = (tmp_path / "a.gz").read_bytes()
    assert gzip.decompress(content) == b"new" and content == (tmp_path / "b.gz").read_bytes()
