"""A scheduler that goes during any call of the client ends in a ClusterError; no cluster."""

import asyncio
from concurrent.futures import CancelledError

import pytest

from wsi_pipeline.core.config import RunConfig
from wsi_pipeline.core.errors import ClusterError, SlideError
from wsi_pipeline.runs.dask_client import Cluster, WorkersDied

distributed = pytest.importorskip("distributed")

LOST = {
    "CommClosedError": distributed.comm.CommClosedError("in <TCP> Stream is closed"),
    "RPCClosed": distributed.core.RPCClosed("RPC Closed"),
    "ConnectionRefusedError": ConnectionRefusedError(111, "refused"),
    "TimeoutError": TimeoutError("timed out"),
    "ClosedClientError": distributed.client.ClosedClientError("client is closed"),
    "FutureCancelledError": distributed.client.FutureCancelledError(
        "k", "scheduler-connection-lost"
    ),
    "CancelledError": CancelledError("k"),
    "asyncio.CancelledError": asyncio.CancelledError(),
    "RuntimeError": RuntimeError("IOLoop is closed"),
    "ValueError": ValueError("no client is running"),
}
CALLS = ("Client", "scheduler_info", "submit", "add_done_callback", "result")


class Future:
    """A task that is finished at once."""

    def __init__(self, client, key):
        self.client, self.key, self.status = client, key, client.status_of_tasks

    def add_done_callback(self, call):
        self.client.at("add_done_callback")
        call(self)

    def result(self):
        self.client.at("result")
        return {"worker": "w", "error": self.client.refusal, "part": b""}

    def cancel(self):
        self.client.at("cancel")


class Client:
    """Dask's client with one worker of one thread, which raises `error` in the call `fails`."""

    fails, error, refusal, status_of_tasks, status = "", None, None, "finished", "running"

    def __init__(self, **how):
        self.count = 0
        self.at("Client")

    def at(self, call):
        if call == self.fails:
            raise self.error

    def submit(self, function, *arguments, **how):
        self.at("submit")
        self.count += 1
        return Future(self, f"task-{self.count}")

    def scheduler_info(self, n_workers):
        self.at("scheduler_info")
        return {"workers": {"w": {"resources": {}, "nthreads": 1}}}

    def close(self, timeout):
        self.at("close")


@pytest.fixture
def client(monkeypatch):
    """The fake client instead of Dask's; its class attributes say what fails."""
    fake = type("Fake", (Client,), {})
    monkeypatch.setattr(distributed, "Client", fake)
    return fake


def answers(count=3):
    config = RunConfig(scheduler="tcp://127.0.0.1:1", quiet=True)
    with Cluster(config) as cluster:
        return list(cluster.map(len, [(n, ("abc",)) for n in range(count)]))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", LOST)
def test_a_scheduler_that_goes_in_any_call_is_a_cluster_error(client, call, error):
    client.fails, client.error = call, LOST[error]
    with pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:1") as raised:
        answers()
    assert raised.value.__cause__ is LOST[error]


@pytest.mark.parametrize("call", ["cancel", "close"])
@pytest.mark.parametrize("error", LOST)
def test_one_that_goes_at_the_end_hides_neither_answers_nor_errors(client, call, error):
    client.fails, client.error = call, LOST[error]
    assert [number for number, _ in answers()] == [0, 1, 2]
    client.refusal = {"name": "SlideError", "message": "worker w: no slide"}
    with pytest.raises(SlideError, match="no slide"):
        answers()


@pytest.mark.parametrize("error", [OSError("of the task"), ValueError("of the task")], ids=repr)
def test_an_error_of_the_task_itself_is_not_taken_for_it(client, error):
    client.fails, client.error, client.status_of_tasks = "result", error, "error"
    with pytest.raises(type(error), match="of the task"):
        answers()


def test_a_client_that_lost_its_scheduler_while_it_waits(client, monkeypatch):
    monkeypatch.setattr(Future, "add_done_callback", lambda *_: None)
    monkeypatch.setattr(client, "status", "closed")
    with pytest.raises(ClusterError, match="cannot be reached any more"):
        answers()


def test_tasks_that_end_their_workers_get_a_last_chance(client, monkeypatch):
    worker = type("Worker", (), {"address": "tcp://w"})
    killed = distributed.KilledWorker("task-1", worker, 0)
    asked = []

    def result(self):
        asked.append(self.key)
        if self.key in ("task-1", "task-4"):  # the first task, and its repetition
            raise killed
        return {"worker": "w", "error": None}

    monkeypatch.setattr(Future, "result", result)
    found = answers()
    assert [number for number, _ in found] == [1, 2, 0]
    assert isinstance(found[-1][1], WorkersDied) and "1 workers ended" in found[-1][1].cause
    assert len(asked) == 4
