"""What a scenario plays on: client processes, and what was said and logged."""

import contextlib
import json
import os
import pathlib
import select
import subprocess
import tempfile

import environments
from relay import Relay

HERE = pathlib.Path(__file__).resolve().parent


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

    def is_stopped(self, tool, because="", sensitive=False):
        """The body does not run, and what is raised has the word `because` in it."""
        outcome = self.call(tool, sensitive=sensitive)
        assert not outcome["ran"], "the body ran"
        assert outcome["error"], "the body did not run, yet nothing was raised"
        assert because in outcome["error"].lower(), f"stopped by {outcome['error']}"

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
