"""Give damaged and hostile files and command lines to wsiseg, thousands of them; count outcomes.

    python experiments/fuzz/fuzz.py [KIND …] [--cases 20000] [--seed 0] [--jobs 1] [--out FILE]

Cases run in forked processes with limits of memory and time, many in each, since starting Python
takes longer than a case. A case is the same for the same kind, seed and number. Allowed are a right
answer and an error of one line; a traceback, a case of over 30 s and a killed process are faults,
and the exit code is 1. The counts go to experiments/results/fuzz.md. It needs Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import resource  # noqa: TID251
import select
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import cv2
from cases import KINDS, Kind
from wsiseg_models.files import written_aside

from wsi_pipeline.core.errors import WsisegError, one_line

RESULTS = Path(__file__).parents[1] / "results" / "fuzz.md"
LIMIT_S, MEMORY, CASES_EACH = 30.0, 2**31, 100
FINE = ("answer", "one line")


def outcome(kind: Kind, number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Run a case in this process; return how it ended, and the error."""
    rng = random.Random(f"{kind.name} {seed} {number}")
    try:
        kind.run(rng, folder)
    except (WsisegError, *kind.refusals) as error:
        text = str(error) if isinstance(error, WsisegError) else one_line(error)
        plain = text.isprintable() and text
        return ("one line", "") if plain else ("many lines", repr(error)[:200])
    except MemoryError as error:
        return "memory", where(error)
    except BaseException as error:
        return "traceback", where(error)
    return "answer", ""


def where(error: BaseException) -> str:
    """Return an error with the last lines of ours that led to it, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "wsi" in f.filename][-2:]
    return f"{type(error).__name__} {' '.join(str(error).split())[:120]} ({' < '.join(ours)})"


def work(kind: Kind, numbers: list[int], seed: int, pipe: int) -> None:
    """Run cases in a forked process; write a line before and after each."""
    held = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = held * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)
    for number in numbers:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            folder = Path(place, "above", "here")  # a command line may name what is above it
            folder.mkdir(parents=True)
            os.chdir(folder)
            os.write(pipe, f"{number}\n".encode())
            found = outcome(kind, number, seed, folder)
            os.write(pipe, "\t".join((str(number), *found, "\n")).encode("utf-8", "replace"))
            os.chdir("/")


def watch(kind: Kind, numbers: list[int], seed: int) -> list[tuple[int, str, str]]:
    """Run cases in a process of its own; return those that it ended, the last perhaps a fault."""
    reading, writing = os.pipe()
    child = get_context("fork").Process(target=work, args=(kind, numbers, seed, writing))
    child.start()
    os.close(writing)
    done, text, begun, hung = [], b"", time.monotonic(), False
    while True:
        if not select.select([reading], [], [], max(0.0, begun + LIMIT_S - time.monotonic()))[0]:
            hung = True
            child.kill()
        chunk = os.read(reading, 65536)
        if not chunk:
            break
        text, begun = text + chunk, time.monotonic()
    os.close(reading)
    child.join()
    lines = [line.split("\t") for line in text.decode("utf-8", "replace").split("\n") if line]
    done = [(int(line[0]), line[1], line[2]) for line in lines if len(line) > 2]
    if len(done) < len(numbers):
        kind_of = "hang" if hung else "kill"
        done.append((numbers[len(done)], kind_of, "" if hung else f"exit code {child.exitcode}"))
    return done


def fuzz(kind: Kind, cases: int, seed: int) -> list[tuple[int, str, str]]:
    """Run all cases of a kind; after a fault that ends the process, the next begins behind it."""
    found: list[tuple[int, str, str]] = []
    while len(found) < cases:
        numbers = list(range(len(found), min(cases, len(found) + CASES_EACH)))
        found += watch(kind, numbers, seed)
    return found


def fuzz_kind(name: str, cases: int, seed: int) -> tuple[Counter[str], float, int]:
    """Run all cases of a kind and print its faults; return outcomes, seconds and faults."""
    start, kind = time.monotonic(), KINDS[name]
    kind.prepare()
    found = fuzz(kind, cases, seed)
    counts, seconds = Counter(result for _, result, _ in found), time.monotonic() - start
    print(name, dict(counts), f"{seconds:.0f} s", flush=True)
    faults = [one for one in found if one[1] not in FINE]
    first = {
        (result, text.split("(")[-1] or number): (number, text) for number, result, text in faults
    }  # hangs and kills all, of tracebacks the last one of each place
    for (result, _), (number, text) in first.items():
        print(f"  {result}: case {number}: {text}", flush=True)
    return counts, seconds, len(faults)


def fuzz_kinds(
    names: list[str], cases: dict[str, int], seed: int
) -> dict[str, tuple[Counter[str], float, int]]:
    """Run several kinds one after the other."""
    return {name: fuzz_kind(name, cases[name], seed) for name in names}


def table(counts: dict[str, Counter[str]], seconds: dict[str, float], seed: int) -> str:
    """Return the counts as Markdown."""
    total = sum(sum(c.values()) for c in counts.values())
    lines = [
        "# Damaged and hostile files, and command lines", "",
        f"`python experiments/fuzz/fuzz.py --seed {seed}`: {total} cases in forked processes, each "
        f"with {MEMORY >> 20} MiB of memory and {LIMIT_S:g} s.", "",
        "| kind | cases | answer | one line | traceback or other | hang | kill | s |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, found in counts.items():
        other = sum(n for k, n in found.items() if k not in (*FINE, "hang", "kill"))
        cells = [found[k] for k in FINE] + [other, found["hang"], found["kill"]]
        row = [name, sum(found.values()), *cells, f"{seconds[name]:.0f}"]
        lines.append(f"| {' | '.join(map(str, row))} |")
    lines += ["", "What the kinds are:", ""]
    lines += [f"- {name}: {KINDS[name].what}." for name in counts]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the cases of all kinds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all")
    parser.add_argument("--cases", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="kinds that run at the same time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    names = given.kinds or list(KINDS)
    weight = sum(KINDS[name].weight for name in names)
    cases = {n: max(1, round(given.cases * KINDS[n].weight / weight)) for n in names}
    cv2.setNumThreads(0)  # a forked process waits for ever for threads that it does not have
    KINDS["runs"].prepare()  # first, while this process has no other thread
    groups: list[list[str]] = [[] for _ in range(given.jobs)]
    for name in sorted(names, key=lambda n: -KINDS[n].weight):
        min(groups, key=lambda group: sum(KINDS[n].weight for n in group)).append(name)
    found: dict[str, tuple[Counter[str], float, int]] = {}
    if given.jobs == 1:
        found = {name: fuzz_kind(name, cases[name], given.seed) for name in names}
    else:
        with ProcessPoolExecutor(given.jobs, get_context("fork")) as pool:
            waiting = [pool.submit(fuzz_kinds, group, cases, given.seed) for group in groups]
            for one in waiting:
                found |= one.result()
    counts = {name: found[name][0] for name in names}
    seconds = {name: found[name][1] for name in names}
    with written_aside(given.out) as aside:
        aside.write_text(table(counts, seconds, given.seed), encoding="utf-8")
    return int(any(bad for _, _, bad in found.values()))


if __name__ == "__main__":
    sys.exit(main())
