"""Runs the published Python clients, unmodified, against a gateway binary.

    python3 run.py --gateway target/debug/nullrun [--versions 0.4.0,0.22.2] [--only kill]

One line for each check; exit code 1 if any failed. COMPATIBILITY.md beside this
file tells what each version does.
"""

import argparse
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import environments
from gateway import Account, Gateway
from relay import Relay

HERE = pathlib.Path(__file__).resolve().parent
SHIM = HERE.parents[2] / "loadtest" / "shim" / "lostpages.c"
CENT_NANOS = 10_000_000


class Traits:
    """What COMPATIBILITY.md says of a version, as far as a check depends on it."""

    def __init__(self, protocol, names_tools, has_sensitive, reports_cached_tokens, llm_route):
        self.protocol = protocol  # what X-NULLRUN-PROTOCOL says
        self.names_tools = names_tools  # of every protected function, marked or not
        self.has_sensitive = has_sensitive  # the @sensitive mark exists
        self.reports_cached_tokens = reports_cached_tokens
        self.llm_route = llm_route  # where an LLM call in a protected body is reported

    @property
    def repeats_charges_to_the_byte(self):
        """Equal LLM calls in one protected body make equal requests."""
        return self.protocol == "4"


TRAITS = {
    "0.4.0": Traits(None, False, True, False, "/api/v1/track/batch"),
    "0.13.11": Traits("3", False, True, True, "/api/v1/track"),
    "0.14.6": Traits("3", False, True, True, "/api/v1/track"),
    "0.18.5": Traits("4", True, False, True, "/api/v1/track"),
    "0.22.2": Traits("4", True, False, True, "/api/v1/track"),
}


def openai_answer(id, prompt, completion, cached=0):
    return "https://api.openai.com/v1/chat/completions", {
        "id": id,
        "object": "chat.completion",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "hi"},
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


def anthropic_answer(id, input, output, cache_read, cache_write):
    return "https://api.anthropic.com/v1/messages", {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": input,
            "output_tokens": output,
            "cache_read_input_tokens": cache_read,
            "cache_creation_input_tokens": cache_write,
        },
    }


class Client:
    """A process with one version of the client library in it: see client.py."""

    ANSWER_SECS = 60

    def __init__(self, python, directory, relay, workflow, settings):
        self.relay = relay
        self._stderr = directory / "client.log"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NULLRUN_")
        }
        environment.update(
            NULLRUN_API_URL=relay.url,
            NULLRUN_API_KEY=workflow.key,
            NULLRUN_WAL_PATH=str(directory / "client.wal"),
            **{"NULLRUN_FLUSH_INTERVAL_MS": "500", **settings},
        )
        with open(self._stderr, "wb") as log:
            self._process = subprocess.Popen(
                [python, HERE / "client.py"], env=environment, cwd=directory,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )
        self._answer()

    def call(self, tool, *llm_answers, sensitive=False):
        """Calls a protected function: did its body run, and what was raised?"""
        return self._ask(do="call", tool=tool, llm_answers=llm_answers, sensitive=sensitive)

    def runs(self, tool, *llm_answers, sensitive=False):
        outcome = self.call(tool, *llm_answers, sensitive=sensitive)
        assert outcome["ran"] and not outcome["error"], f"the body did not run: {outcome['error']}"

    def is_stopped(self, tool, **options):
        outcome = self.call(tool, **options)
        assert not outcome["ran"], "the body ran"
        assert outcome["error"], "the body did not run, yet nothing was raised"

    def track(self, count, model, input_tokens):
        self._ask(do="track", count=count, model=model, input_tokens=input_tokens)

    def close(self):
        """Lets the library shut down, which sends what it still has."""
        self._process.stdin.close()
        try:
            self._process.wait(self.ANSWER_SECS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the client did not end")

    def kill(self):
        self._process.kill()
        self._process.wait()

    def log(self):
        return self._stderr.read_text(errors="replace")

    def _ask(self, **command):
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        ready, _, _ = select.select([self._process.stdout], [], [], self.ANSWER_SECS)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self.kill()
            raise AssertionError("the client gave no answer")
        return json.loads(line)


class Stage:
    """Where one scenario plays: a gateway, an account, and the clients it starts."""

    def __init__(self, version, gateway, account, directory):
        self.version, self.gateway, self.account = version, gateway, account
        self.traits = TRAITS[version]
        self._directory = directory
        self._clients = []

    @contextlib.contextmanager
    def client(self, workflow, environment=None, **settings):
        directory = pathlib.Path(tempfile.mkdtemp(dir=self._directory))
        relay = Relay(self.gateway.port)
        python = environments.python_of(environment or self.version)
        client = Client(python, directory, relay, workflow, settings)
        self._clients.append(client)
        try:
            yield client
            client.close()
        finally:
            client.kill()
            relay.close()

    def evidence(self):
        for number, client in enumerate(self._clients, 1):
            yield f"--- client {number}: what it said to the gateway"
            yield from (exchange.describe() for exchange in client.relay.exchanges)
            yield f"--- client {number}: its log\n{client.log()[-6000:]}"
        yield f"--- the gateway's log\n{self.gateway.log()[-6000:]}"


def expect_spent(workflow, nanos):
    """The workflow, the organization's status and the ledger agree on `nanos`."""
    spent = workflow.spent_nanos()
    assert spent == nanos, f"spent {spent} nanos, {nanos} expected"
    rows = workflow.account.ask("GET", "/status")["workflows"]
    shown = [row["spent_nanos"] for row in rows if row["workflow_id"] == workflow.id]
    assert shown == [nanos], f"/status shows {shown} nanos, {nanos} expected"
    ledger = workflow.account.ask("GET", "/ledger/verify")
    assert ledger["verified"], f"/ledger/verify does not agree: {ledger}"


def await_spent(workflow, nanos):
    """Waits until charges that clients send in the background have come."""
    deadline = time.monotonic() + 10
    while workflow.spent_nanos() != nanos and time.monotonic() < deadline:
        time.sleep(0.1)
    expect_spent(workflow, nanos)


def spend_is_exact(stage):
    """A protected call with two LLM answers; both models by their dated names."""
    workflow = stage.account.workflow("exact")
    with stage.client(workflow) as client:
        client.runs(
            "agent",
            openai_answer("c1", prompt=1200, completion=50, cached=200),
            anthropic_answer("m1", input=9, output=4, cache_read=2, cache_write=3),
        )
    # gpt-4o-mini per token: 150 nanos in, 75 cached (inside `prompt`), 600 out.
    # claude-haiku-4-5: 1,000 in, 100 cache read, 1,250 cache write (outside `input`), 5,000 out.
    if stage.traits.reports_cached_tokens:
        nanos = (1000 * 150 + 200 * 75 + 50 * 600) + (9 * 1000 + 2 * 100 + 3 * 1250 + 4 * 5000)
    else:
        nanos = (1200 * 150 + 50 * 600) + (9 * 1000 + 4 * 5000)
    expect_spent(workflow, nanos)


def wire_is_as_documented(stage):
    workflow = stage.account.workflow("wire")
    with stage.client(workflow) as client:
        client.runs("agent", openai_answer("c1", prompt=12, completion=5))
    said = client.relay.exchanges
    calls = [exchange for exchange in said if "x-signature-timestamp" in exchange.headers]
    unsigned = {exchange.path for exchange in said if exchange not in calls}
    assert unsigned <= {
        "/api/v1/auth/verify", "/api/v1/policies", "/api/v1/capabilities", "/health",
        f"/api/v1/status/{workflow.id}",
    }, f"unsigned: {unsigned}"
    assert all(exchange.status == 200 for exchange in calls), "a call was not answered with 200"
    protocols = {exchange.headers.get("x-nullrun-protocol") for exchange in calls}
    assert protocols == {stage.traits.protocol}, f"protocol headers: {protocols}"
    reports = [
        exchange.path for exchange in calls
        if exchange.path == "/api/v1/track" or b"llm_call" in exchange.body
    ]
    assert reports == [stage.traits.llm_route], f"LLM calls were reported to {reports}"


def budget_of_zero_stops(stage):
    workflow = stage.account.workflow("nothing may be spent", budget_cents=0)
    with stage.client(workflow) as client:
        client.is_stopped("agent")
    expect_spent(workflow, 0)


def spent_budget_stops(stage):
    workflow = stage.account.workflow("one cent", budget_cents=1)
    spent = 20_000 * 600
    assert spent > CENT_NANOS
    with stage.client(workflow) as client:
        client.runs("agent", openai_answer("c1", prompt=0, completion=20_000))
        await_spent(workflow, spent)
        client.is_stopped("agent")
    expect_spent(workflow, spent)


def kill_stops(stage):
    workflow = stage.account.workflow("killed")
    workflow.order("kill")
    with stage.client(workflow) as client:
        client.is_stopped("agent")


def pause_stops_until_resume(stage):
    workflow = stage.account.workflow("paused")
    with stage.client(workflow) as client:
        client.runs("agent")
        workflow.order("pause")
        client.is_stopped("agent")
        workflow.order("resume")
        client.runs("agent")


def blocked_tool_stops(stage):
    workflow = stage.account.workflow("tools")
    workflow.block_tool("wipe_*")
    with stage.client(workflow) as client:
        if stage.traits.names_tools:
            client.is_stopped("wipe_disk")
        else:
            client.runs("wipe_disk")
        if stage.traits.has_sensitive:
            client.is_stopped("wipe_tape", sensitive=True)
            client.runs("read_tape", sensitive=True)


def batch_counts_each_event_once(stage):
    workflow = stage.account.workflow("batch")
    spent = 120 * 47 * 1000
    with stage.client(workflow, NULLRUN_V3_TRACK_DISABLE="1") as client:
        client.track(120, model="claude-haiku-4-5", input_tokens=47)
    batches = client.relay.of("/api/v1/track/batch")
    sent = [event["event_id"] for batch in batches for event in json.loads(batch.body)["events"]]
    assert len(sent) == len(set(sent)) == 120, f"the client sent {len(sent)} events"
    expect_spent(workflow, spent)
    for batch in batches:
        status, answer = stage.gateway.send(
            "POST", batch.path, batch.body, workflow.signed(batch.body)
        )
        ids = [event["event_id"] for event in json.loads(batch.body)["events"]]
        assert status == 200, f"the replay gave {status} {answer}"
        assert sorted(answer["accepted_event_ids"]) == sorted(ids), "a replayed id is not accepted"
    expect_spent(workflow, spent)


def equal_calls_are_charged_each(stage):
    workflow = stage.account.workflow("thrice")
    equal = [openai_answer(f"c{number}", prompt=12, completion=5) for number in range(3)]
    with stage.client(workflow) as client:
        client.runs("agent", *equal)
    if stage.traits.repeats_charges_to_the_byte:
        charges = [exchange.body for exchange in client.relay.of("/api/v1/track")]
        assert len(charges) == 3, f"the client sent {len(charges)} charges"
        assert len(set(charges)) == 1, "the three charges are not byte-identical"
    expect_spent(workflow, 3 * (12 * 150 + 5 * 600))


def starts_with_websockets(stage):
    workflow = stage.account.workflow("websockets")
    with stage.client(workflow, environment=environments.WITH_WEBSOCKETS) as client:
        client.runs("agent", openai_answer("c1", prompt=12, completion=5))
        deadline = time.monotonic() + 5
        upgrade = f"/ws/control/{stage.account.organization_id}"
        while not client.relay.of(upgrade) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.relay.of(upgrade), "the client did not try to connect"
        client.runs("agent", openai_answer("c2", prompt=12, completion=5))
    expect_spent(workflow, 2 * (12 * 150 + 5 * 600))


# A client library holds a lock while it sends its events, and a protected call waits
# for that lock: with the events left for the end, only the gate decides.
EVENTS_AT_THE_END = {"NULLRUN_FLUSH_INTERVAL_MS": "600000"}


def hung_disk_lets_no_body_run(stage):
    workflow = stage.account.workflow("hung disk")
    with stage.client(workflow, **EVENTS_AT_THE_END) as client:
        client.runs("agent")
        with stage.gateway.hung_disk():
            client.is_stopped("agent")


def full_queue_lets_no_body_run(stage):
    workflow = stage.account.workflow("full queue")
    with stage.client(workflow, **EVENTS_AT_THE_END) as client:
        client.runs("agent")
        with stage.gateway.hung_disk(), flood(stage.gateway, stage.account.workflow("flood")):
            client.is_stopped("agent")


class HangingGateway(Gateway):
    """A gateway with a short queue, on a disk whose syncs can be made to hang."""

    def __init__(self, binary, directory):
        library = pathlib.Path(directory) / "lostpages.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-o", library, SHIM, "-ldl", "-lpthread"], check=True
        )
        self._hang_file = pathlib.Path(directory) / "hang"
        super().__init__(
            binary, directory,
            NULLRUN_QUEUE_DEPTH="8",
            LD_PRELOAD=str(library),
            LOSTPAGES_DIR=str(pathlib.Path(directory) / "data"),
            LOSTPAGES_SHADOW=str(pathlib.Path(directory) / "shadow"),
            LOSTPAGES_HANG_FILE=str(self._hang_file),
        )

    @contextlib.contextmanager
    def hung_disk(self):
        self._hang_file.touch()
        try:
            yield
        finally:
            self._hang_file.unlink()


@contextlib.contextmanager
def flood(gateway, workflow):
    """Gates from 64 connections at once, going on once the gateway has called itself overloaded."""
    stop, overloaded = threading.Event(), threading.Event()

    def ask():
        while not stop.is_set():
            body = json.dumps({"operation_id": os.urandom(16).hex(), "tools": ["agent"]}).encode()
            _, answer = gateway.send("POST", "/api/v1/gate", body, workflow.signed(body))
            if answer["details"]["error_code"] == "OVERLOADED":
                overloaded.set()
                time.sleep(0.02)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(64)]
    for thread in threads:
        thread.start()
    try:
        assert overloaded.wait(10), "the gateway never said OVERLOADED"
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


SCENARIOS = {
    "spend of a protected call is exact to the nano-dollar": spend_is_exact,
    "protocol, signatures and routes are as documented": wire_is_as_documented,
    "budget of zero stops the body": budget_of_zero_stops,
    "budget spent by charges stops the body": spent_budget_stops,
    "prior kill stops the body": kill_stops,
    "pause stops a running process until resume": pause_stops_until_resume,
    "blocked tool stops the body where the client names it": blocked_tool_stops,
    "120 events count once each, replayed not again": batch_counts_each_event_once,
    "three equal LLM calls are three charges": equal_calls_are_charged_each,
}
ONLY_NEWEST = {"starts and is billed with websockets installed": starts_with_websockets}
ON_A_HANGING_DISK = {
    "hung disk lets no body run": hung_disk_lets_no_body_run,
    "full queue lets no body run": full_queue_lets_no_body_run,
}


class Report:
    def __init__(self, only):
        self._only = only
        self.passed = self.failed = 0

    def selected(self, scenarios):
        return {name: play for name, play in scenarios.items() if self._only in name}

    def play(self, name, play, stage):
        started = time.monotonic()
        try:
            play(stage)
        except Exception as failure:
            self.failed += 1
            reason = str(failure) if isinstance(failure, AssertionError) else traceback.format_exc()
            print(f"FAIL {stage.version} {name}: {reason}")
            print(*stage.evidence(), sep="\n", flush=True)
        else:
            self.passed += 1
            secs = time.monotonic() - started
            print(f"ok {stage.version} {name} ({secs:.1f} s)", flush=True)


def run_version(version, binary, report):
    plain = dict(SCENARIOS)
    if version == environments.VERSIONS[-1]:
        plain.update(ONLY_NEWEST)
    for kind, scenarios in ((Gateway, plain), (HangingGateway, ON_A_HANGING_DISK)):
        if chosen := report.selected(scenarios):
            with tempfile.TemporaryDirectory(prefix="nullrun-sdk-") as directory:
                gateway = kind(binary, directory)
                try:
                    account = Account(gateway)
                    for name, play in chosen.items():
                        report.play(name, play, Stage(version, gateway, account, directory))
                finally:
                    gateway.stop()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--gateway", required=True, help="the binary to test")
    arguments.add_argument("--versions", default=",".join(environments.VERSIONS))
    arguments.add_argument("--only", default="", help="checks whose name contains this")
    chosen = arguments.parse_args()
    versions = chosen.versions.split(",")
    binary = os.path.abspath(chosen.gateway)
    for unknown in set(versions) - set(TRAITS):
        arguments.error(f"{unknown} is not one of {', '.join(TRAITS)}")
    if not shutil.which("cc"):
        sys.exit("a C compiler (cc) is needed for the hanging disk: apt-get install gcc")
    wanted = [*versions]
    if environments.VERSIONS[-1] in versions:
        wanted.append(environments.WITH_WEBSOCKETS)
    try:
        environments.make(wanted)
    except environments.EnvironmentFailure as failure:
        sys.exit(f"FAIL {failure}")
    report = Report(chosen.only)
    for version in versions:
        run_version(version, binary, report)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(1 if report.failed or not report.passed else 0)


if __name__ == "__main__":
    main()
