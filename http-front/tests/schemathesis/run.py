"""schemathesis over a gateway's own description: as an owner, and as a key that signs.

    python run.py --gateway target/debug/nullrun --issuer ../auth/issuer.py

Prints how often each operation answered 2xx, and fails on any finding and on an operation that never did.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

from world import World

HERE = pathlib.Path(__file__).resolve().parent
METRICS_TOKEN = "metrics token of a test"


@contextlib.contextmanager
def running(command, environment, wanted):
    """A process of ours, and the first line of its output that `wanted` makes something of."""
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if found := wanted(line):
                break
        else:
            raise RuntimeError(f"{command[0]} ended before it listened")
        # What else it says must not fill its pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def listening(line):
    return next((word.rstrip("/.,") for word in line.split() if word.startswith("http://127.0.0.1:")), None)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--gateway", required=True)
    arguments.add_argument("--issuer", default=HERE.parent / "auth" / "issuer.py")
    arguments.add_argument("--max-examples", type=int, default=5)
    arguments.add_argument("--seed", type=int, default=1, help="of the generated calls")
    arguments.add_argument("rest", nargs="*", help="more for schemathesis, after --")
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="nullrun-schemathesis-") as data, contextlib.ExitStack() as stack:
        port = stack.enter_context(
            running(
                [sys.executable, str(arguments.issuer)],
                {"AUTHLIB_INSECURE_TRANSPORT": "1"},
                lambda line: line.strip().removeprefix("port ") if line.startswith("port ") else None,
            )
        )
        issuer = f"http://127.0.0.1:{port}"
        environment = {
            "NULLRUN_DATA_DIR": data,
            "NULLRUN_LISTEN": "127.0.0.1:0",
            "NULLRUN_BOOTSTRAP": "off",
            "NULLRUN_HMAC_REQUIRED": "true",
            "NULLRUN_METRICS_TOKEN": METRICS_TOKEN,
            "NULLRUN_OIDC_ACME_ISSUER": issuer,
            "NULLRUN_OIDC_ACME_CLIENT_ID": "acme-id",
            "NULLRUN_OIDC_ACME_CLIENT_SECRET": "acme-s3cret",
        }
        url = stack.enter_context(running([arguments.gateway], environment, listening))
        outbox = f"{data}/outbox"
        things = World(url, outbox, issuer).furnish()
        statuses = collections.defaultdict(collections.Counter)
        wrong = []
        for who in ("owner", "key"):
            seen = f"{data}/seen-{who}.json"
            setup = {"as": who, "url": url, "outbox": outbox, "issuer": issuer, "things": things}
            setup |= {"seen": seen, "metrics_token": METRICS_TOKEN}
            st = shutil.which("st", path=str(pathlib.Path(sys.executable).parent))
            command = [st, "--config-file", str(HERE / "schemathesis.toml"), "run", f"{url}/api/v1/openapi.json"]
            command += ["--max-examples", str(arguments.max_examples), "--seed", str(arguments.seed)]
            command += arguments.rest
            environment = {
                **os.environ,
                "NULLRUN_SCHEMATHESIS": json.dumps(setup),
                "SCHEMATHESIS_HOOKS": "hooks",
                "PYTHONPATH": str(HERE),
            }
            print(f"== as {who} ==", flush=True)
            if subprocess.run(command, env=environment, cwd=data).returncode:
                wrong.append(f"schemathesis found something as {who}")
            with open(seen, encoding="utf-8") as file:
                for label, counts in json.load(file).items():
                    statuses[label].update({int(status): count for status, count in counts.items()})
        print("\n== how often each operation was called, and answered 2xx ==")
        for label, counts in sorted(statuses.items()):
            # A redirect is what the beginning of a sign-in has for success.
            taken = sum(count for status, count in counts.items() if status < 400)
            print(f"{label}: {counts.total()} calls, {taken} taken")
            if not taken:
                wrong.append(f"{label} never answered 2xx: {dict(counts)}")
        with open(HERE.parent.parent / "openapi.json", encoding="utf-8") as file:
            paths = json.load(file)["paths"]
        operations = {f"{method.upper()} {path}" for path, item in paths.items() for method in item if method != "parameters"}
        # schemathesis does not test the operation that it has the description from.
        operations.remove("GET /api/v1/openapi.json")
        wrong += [f"{label} was never called" for label in sorted(operations - set(statuses))]
        print(f"{len(operations)} operations, {sum(counts.total() for counts in statuses.values())} calls")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
