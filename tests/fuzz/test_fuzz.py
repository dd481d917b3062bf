"""Coverage-guided fuzzing of everything that reads a peer's bytes, for a bounded number of inputs.

Nothing but the refusal that the reader promises may come of any bytes, in bounded memory and time. Longer:
``python -m tests.fuzz.targets meeting -max_total_time=600 CORPUS_FOLDER``.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_BOUNDS = ("-max_len=8192", "-rss_limit_mb=1024", "-timeout=10", "-print_final_stats=1")


@pytest.mark.parametrize(
    ("module", "target", "runs"),
    [
        *(
            ("targets", target, 20_000)
            for target in ("meeting", "record", "snapshot", "fingerprint", "question", "hello", "proof", "welcome")
        ),
        ("payloads", "payload", 1_000),
    ],
)
def test_no_bytes_do_harm(module: str, target: str, runs: int, tmp_path: Path) -> None:
    """The same inputs each time; the fuzzer really ran, and has found more than the seeds reach."""
    pytest.importorskip("atheris", reason="this platform has no wheel of the fuzzer")
    corpus = tmp_path / "corpus"
    command = [sys.executable, "-m", f"tests.fuzz.{module}", target, f"-atheris_runs={runs}", "-seed=1", *_BOUNDS]
    command += [f"-artifact_prefix={tmp_path}/", str(corpus)]

    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {runs} in" in done.stderr
    (begun,) = re.findall(r"INITED cov: (\d+)", done.stderr)
    reached = [int(found) for found in re.findall(r"cov: (\d+)", done.stderr)]
    assert max(reached) > int(begun)
