"""A grid of cells, a server and requests to it, for the tests of the viewer."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import contextmanager

import numpy as np
import shapely

from wsi_pipeline.core.objects import Objects
from wsi_pipeline.viewer.library import Library, match_runs
from wsi_pipeline.viewer.server import ViewerServer


def grid_of_cells(columns=8, rows=6, step=120.0):
    """Round cells with a nucleus each, in a grid; even cells have a second nucleus."""
    shapes, parent, areas, kinds = [], [], [], []
    for k in range(columns * rows):
        x, y = 60 + step * (k % columns), 60 + step * (k // columns)
        cell = len(shapes)
        shapes.append(shapely.Point(x, y).buffer(40 + k % 5))
        parent.append(-1)
        kinds.append(0)
        for n in range(2 - k % 2):
            shapes.append(shapely.Point(x + 20 * n - 8, y).buffer(6 + k % 3 + 2 * n))
            parent.append(cell)
            kinds.append(1)
    kinds, parent = np.array(kinds, np.uint8), np.array(parent)
    areas = np.array([s.area for s in shapes], np.float32)
    n = len(shapes)
    return Objects.from_polygons(
        shapes,
        classes=("cell", "nucleus"),
        ids=np.stack([np.arange(n) + 7, np.full(n, 2**63)], 1).astype(np.uint64),
        class_index=kinds,
        score=np.linspace(0.5, 1, n, dtype=np.float32),
        features={
            "Nucleus: Area µm^2": np.where(kinds == 1, areas, np.nan).astype(np.float32),
            "Cell: Area µm^2": np.where(kinds == 0, areas, np.nan).astype(np.float32),
            "Nucleus/Cell area ratio": np.where(kinds == 0, 0.1, np.nan).astype(np.float32),
            "Abnormal: probability": np.where(kinds == 1, 0.3, np.nan).astype(np.float32),
        },
        parent=parent,
    )


@contextmanager
def served(slides, runs, **options):
    """A server in a thread of its own."""
    library = Library(match_runs(slides, runs), **options)
    with ViewerServer(library) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            library.close()


def ask(server, path, body=None, **headers):
    """Status, headers and body of an answer; with the token unless headers say otherwise."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    given = {"X-Wsiseg-Token": server.access.token} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    method = "GET" if body is None else "POST"
    sent = json.dumps(body) if isinstance(body, dict) else body
    connection.request(method, path, sent, {k: v for k, v in given.items() if v is not None})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def ask_json(server, path, body=None):
    """The JSON of an answer without error."""
    status, _, content = ask(server, path, body)
    assert status == 200, content
    return json.loads(content)
