"""Laws of what the benchmark measures of a process and of the GPU."""

import numpy as np
import pytest
import torch

from wsi_pipeline.benchmark import machine as benchmark_machine
from wsi_pipeline.benchmark.machine import Busy, run_process
from wsi_pipeline.core.errors import OutputError


def test_memory_is_the_process_s_own():
    """What the parent holds does not count; what the child held for a moment does."""
    held = np.ones(400_000_000, np.uint8)
    small = run_process("import time; time.sleep(0.3)", [], environment={}, device="cpu")
    code = "import time; b = bytearray(200_000_000); time.sleep(0.3); del b; time.sleep(0.1)"
    large = run_process(code, [], environment={}, device="cpu")
    assert held.size / 1e6 > 300 > large.peak_memory_mb > 200 > small.peak_memory_mb > 0
    assert 0.3 < small.seconds < 30 and not small.busy


def test_a_run_that_fails_says_why():
    code = "import sys; print('first', file=sys.stderr); sys.exit('wsiseg: the cause')"
    with pytest.raises(OutputError, match="failed: the cause"):
        run_process(code, [], environment={}, device="cpu")


def test_arguments_and_environment_arrive():
    code = "import os, sys; sys.exit(sys.argv[1] + os.environ['GIVEN'])"
    with pytest.raises(OutputError, match="a b!"):
        run_process(code, ["a b"], environment={"GIVEN": "!"}, device="cpu")


def test_the_gpu_s_load_is_the_mean_of_its_samples(monkeypatch):
    loads = iter([100, 50] * 1000)
    monkeypatch.setattr(benchmark_machine, "BUSY_EVERY_S", 0.001)
    monkeypatch.setattr(torch.cuda, "utilization", lambda index: next(loads))
    with Busy("cuda:1") as busy:
        while len(busy._samples) < 20:
            pass
    assert busy.result() == {"gpu_busy": pytest.approx(0.75, abs=0.02), "gpu_busy_by": "NVML"}
    with Busy("cpu") as idle, idle.call():
        pass
    assert idle.result() == {}
