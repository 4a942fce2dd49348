"""One batch of inputs in a process of its own, with bounds on memory and time; one JSON line at the end.

Usage: python -m fuzz.worker READER SEED COUNT FOLDER. What is being read lies in FOLDER/now, so that it survives the
end of the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz.damage import Files

ROOM_BYTES = 1 << 30
"""How much address space a reader may ask for beyond what the process holds once everything is imported."""
SECONDS = 5
_KEPT_OF_A_KIND = 3


class Hang(BaseException):
    """A reader took longer than it may."""


def main() -> None:
    """Read the arguments, run the batch, print what came of it."""
    reader, seed, count, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    print(json.dumps(run_batch(reader, seed, count, place)))


def run_batch(name: str, batch_seed: int, count: int, place: Path) -> dict[str, Any]:
    """Draw inputs for one reader and read each; return the counts, and what was kept."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    from fuzz.readers import READERS

    reader = READERS[name]
    sound = reader.sound()
    now = place / "now"
    whole = [read_files(name, files, now, None) for files in sound]  # imports what the reader imports
    if any(outcome != "loaded" for outcome, _ in whole):
        raise AssertionError(f"a sound file of {name} is not read: {[outcome for outcome, _ in whole]}")
    expected = [found for _, found in whole]
    limit_memory()
    counts: Counter[str] = Counter()
    slowest = 0.0

    @seed(batch_seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: Any) -> None:
        nonlocal slowest
        which = data.draw(st.integers(0, len(sound) - 1))
        files, same = reader.draw(data.draw, sound[which])
        start = time.process_time()
        outcome, _ = read_files(name, files, now, expected[which] if same else None)
        slowest = max(slowest, time.process_time() - start)
        counts[outcome] += 1
        if outcome not in ("loaded", "refused") and counts[outcome] <= _KEPT_OF_A_KIND:
            keep(now, place / "kept" / name, outcome)

    one()
    return {"counts": dict(counts), "slowest": round(slowest, 3)}


def read_files(name: str, files: Files, now: Path, expected: Any) -> tuple[str, Any]:
    """Write files into a folder and read them; return what came of it, and what the reader returned."""
    from fuzz.readers import READERS

    shutil.rmtree(now, ignore_errors=True)
    for path, content in files.items():
        (now / path).parent.mkdir(parents=True, exist_ok=True)
        (now / path).write_bytes(content)
    return outcome_of(lambda: READERS[name].read(now), expected)


def outcome_of(read: Any, expected: Any = None) -> tuple[str, Any]:
    """Return ``loaded``, ``refused``, or what is wrong: ``foreign …``, ``long …``, ``hang``, ``memory``, ``wrong``."""
    from prunus.errors import PrunusError

    signal.signal(signal.SIGPROF, _hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read()
    except PrunusError as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        if _lacked_memory(error):
            return "memory", None
        one_line = "\n" not in str(error) and len(str(error)) <= 1000
        return ("refused" if one_line else f"long {_place(error)}"), None
    except Hang as error:
        return f"hang {_place(error)}", None
    except MemoryError as error:
        return f"memory {_place(error)}", None
    except BaseException as error:
        return f"foreign {type(error).__name__} {_place(error)}", None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ("loaded" if expected is None or found == expected else "wrong"), found


def limit_memory() -> None:
    """Allow `ROOM_BYTES` of address space beyond what is held now."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM_BYTES, held + ROOM_BYTES))


def keep(now: Path, kept: Path, outcome: str) -> None:
    """Copy the files of a failing input, with a note of what came of it."""
    content = b"".join(p.read_bytes() for p in sorted(now.rglob("*")) if p.is_file())
    place = kept / hashlib.sha256(content).hexdigest()[:12]
    if not place.exists():
        shutil.copytree(now, place / "files")
        (place / "outcome.txt").write_text(outcome + "\n")


def _lacked_memory(error: BaseException | None) -> bool:
    for _ in range(20):
        if error is None:
            break
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: BaseException) -> str:
    own = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}prunus{os.sep}" in f.filename]
    last = own[-1] if own else None
    return f"{Path(last.filename).name}:{last.name}" if last else "?"


def _hang(*_: Any) -> None:
    raise Hang


if __name__ == "__main__":
    main()
