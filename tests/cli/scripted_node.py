"""Stands for a node in tests: serves /status, takes ten steps at each look, has a child that ends with it.

Arguments: metrics port, final state file, total steps, socket file, and a word: orderly, or slow (takes many looks to come
up), or mortal (does not come up a second time), or swift (has finished when it comes up a second time), or lame (stops after
two looks), or stubborn (its child stays when it is killed, and it ignores SIGTERM), or broken (ends at once with exit code 3).
"""

import json
import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PORT, FINAL, TOTAL, SOCKET, CHARACTER = sys.argv[1:6]

# Reads from a pipe that only its parent holds open, so it ends when its parent does; a stubborn one just stays.
ORDERLY_CHILD = "import sys; sys.stdin.read()"
STUBBORN_CHILD = "import signal; signal.pause()"
HAS_LIVED = Path(f"{SOCKET}.lived")
LOOKS_TO_COME_UP = 100 if CHARACTER == "slow" else 10**9 if CHARACTER == "mortal" and HAS_LIVED.exists() else 0
FIRST_STEPS = int(TOTAL) if CHARACTER == "swift" and HAS_LIVED.exists() else 0
MOST_STEPS = 20 if CHARACTER == "lame" else int(TOTAL)


class Answer(BaseHTTPRequestHandler):
    looks = 0
    steps = FIRST_STEPS

    def do_GET(self) -> None:
        Answer.looks += 1
        is_up = Answer.looks > LOOKS_TO_COME_UP
        if is_up:
            Answer.steps = min(Answer.steps + 10, MOST_STEPS)
        state = "connecting" if not is_up else "finished" if Answer.steps >= int(TOTAL) else "training"
        training = {"steps": str(Answer.steps), "tokens": str(10 * Answer.steps), "loss": 2.5, "validation_loss": 2.4}
        training |= {
            "progress_steps": Answer.steps,
            "total_steps": TOTAL,
            "parameters": "1000",
            "sketch": [float(sys.argv[1]), 2.0],
        }
        sent = {"direction": "sent", "stream": "params", "codec": "ab", "bytes": str(Answer.steps)}
        meetings = {"completed": str(Answer.steps // 10), "bytes": [sent]}
        body = json.dumps(
            {
                "peer_id": f"peer-{PORT}",
                "state": state,
                "join_address": f"/ip4/127.0.0.1/{PORT}",
                "training": training,
                "meetings": meetings,
                "a_field_of_a_later_version": 1,
            }
        ).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def leave(*_: object) -> None:
    Path(FINAL).parent.mkdir(parents=True, exist_ok=True)
    Path(FINAL).write_bytes(b"")
    Path(SOCKET).unlink(missing_ok=True)
    sys.exit(0)


def main() -> None:
    if CHARACTER == "broken":
        print("this is why")
        sys.exit(3)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if CHARACTER == "stubborn" else leave)
    HAS_LIVED.touch()
    Path(SOCKET).unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX)
    control.bind(SOCKET)
    child = subprocess.Popen(
        [sys.executable, "-c", STUBBORN_CHILD if CHARACTER == "stubborn" else ORDERLY_CHILD], stdin=subprocess.PIPE
    )
    HTTPServer.allow_reuse_address = True
    with HTTPServer(("127.0.0.1", int(PORT)), Answer) as server:
        print(f"child {child.pid}", flush=True)
        server.serve_forever()


main()
