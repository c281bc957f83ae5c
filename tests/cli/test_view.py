"""`wsiseg view`: what it refuses, and that Ctrl-C ends it."""

import signal
import subprocess
import sys
import urllib.request

import pytest
from command_line import complaint, wsiseg


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.svs"], "nothing.svs does not exist"),
        (["."], "holds no slide and no run"),
        (["slide.svs", "."], "holds no finished run"),
        (["slide.svs", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "slide.svs":
        (tmp_path / "slide.svs").write_bytes(b"")
    assert said in complaint(wsiseg("view", *arguments, "--no-browser"), 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is not a signal there")
def test_it_prints_its_address_and_ends_with_ctrl_c(slide_path, tmp_path):
    command = [sys.executable, "-m", "wsi_pipeline", "view", str(slide_path), "--no-browser"]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", cwd=tmp_path
    )
    try:
        address = started.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:") and "#token=" in address
        with urllib.request.urlopen(address, timeout=20) as page:
            assert b"not a medical device" in page.read()
        started.send_signal(signal.SIGINT)
        assert started.wait(20) == 0
        assert "Traceback" not in started.stderr.read()
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
        started.stderr.close()
    assert list(tmp_path.iterdir()) == []
