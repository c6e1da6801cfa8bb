"""The gateway as a process, and what an operator does with it over HTTP."""

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import re
import subprocess
import threading
import time
import uuid

SHIM = pathlib.Path(__file__).resolve().parents[3] / "loadtest" / "shim" / "lostpages.c"
START_SECS = 30
STOP_SECS = 15


class Gateway:
    """One gateway process with a data directory of its own under `directory`."""

    def __init__(self, binary, directory, **settings):
        self._log = pathlib.Path(directory) / "gateway.log"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NULLRUN_")
        }
        environment.update(
            NULLRUN_LISTEN="127.0.0.1:0",
            NULLRUN_DATA_DIR=str(pathlib.Path(directory) / "data"),
            NULLRUN_BOOTSTRAP="off",
            NULLRUN_HMAC_REQUIRED="true",
            NULLRUN_DURABILITY="strict",
            **settings,
        )
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [binary], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.port = self._await_port()

    def _await_port(self):
        deadline = time.monotonic() + START_SECS
        while time.monotonic() < deadline and self._process.poll() is None:
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log()):
                return int(found.group(1))
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"the gateway did not start; it said:\n{self.log()}")

    def log(self):
        return self._log.read_text(errors="replace")

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(STOP_SECS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def send(self, method, path, body, headers):
        """One request on a connection of its own: status and JSON of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()


class HangingGateway(Gateway):
    """A gateway with a short queue, on a disk whose syncs can be made to hang."""

    def __init__(self, binary, directory, **settings):
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
            **settings,
        )

    @contextlib.contextmanager
    def hung_disk(self):
        self._hang_file.touch()
        try:
            yield
        finally:
            self._hang_file.unlink()


class Account:
    """An owner with an organization of their own on `gateway`."""

    def __init__(self, gateway):
        self._gateway = gateway
        owner = {"email": f"{uuid.uuid4()}@example.com", "password": "correct horse battery"}
        status, answer = gateway.send("POST", "/api/v1/auth/register", json.dumps(owner), {})
        if status != 201:
            raise RuntimeError(f"registering an account gave {status} {answer}")
        self._session = answer["session_token"]
        self._org = f"/api/v1/orgs/{answer['organization_id']}"
        self.organization_id = answer["organization_id"]

    def ask(self, method, path, body=None):
        """A management request below the organization; anything but a 2xx is an error."""
        status, answer = self._gateway.send(
            method,
            self._org + path,
            None if body is None else json.dumps(body),
            {"Authorization": f"Bearer {self._session}"},
        )
        if status // 100 != 2:
            raise RuntimeError(f"{method} {self._org}{path} {body} gave {status} {answer}")
        return answer

    def workflow(self, name, **settings):
        """A new workflow and a key that is bound to it."""
        created = self.ask("POST", "/workflows", {"name": name, **settings})
        key = self.ask("POST", "/api-keys", {"workflow_id": created["id"]})
        return Workflow(self, created["id"], key["id"], key["key"], key["secret_key"])


class Workflow:
    def __init__(self, account, id, key_id, key, secret):
        self.account, self.id, self._key_id = account, id, key_id
        self.key, self._secret = key, secret

    def read(self):
        return self.account.ask("GET", f"/workflows/{self.id}")

    def order(self, transition):
        """pause, resume or kill."""
        self.account.ask("POST", f"/workflows/{self.id}/{transition}", {"reason": "operator"})

    def rotated(self, overlap_secs):
        """The same workflow with its key's new text and secret."""
        key = self.account.ask(
            "POST", f"/api-keys/{self._key_id}/rotate", {"overlap_secs": overlap_secs}
        )
        assert key["key_version"] == 2, f"the rotated key: version {key['key_version']}"
        return Workflow(self.account, self.id, self._key_id, key["key"], key["secret_key"])

    def block_tool(self, pattern):
        self.account.ask("POST", "/policies", {
            "name": f"no {pattern}",
            "policy_type": "ToolBlock",
            "scope": "Workflow",
            "scope_id": self.id,
            "config": {"tool_pattern": [pattern]},
        })

    def signed(self, body):
        """The headers a client puts on a request with this body."""
        timestamp = str(int(time.time()))
        message = f"{timestamp}:{self.key}:{hashlib.sha256(body).hexdigest()}"
        return {
            "X-API-Key": self.key,
            "X-Signature-Timestamp": timestamp,
            "X-Signature": hmac.new(self._secret.encode(), message.encode(), "sha256").hexdigest(),
        }


@contextlib.contextmanager
def flood(gateway, workflow):
    """Gates from 64 connections at once, going on once the gateway has called itself overloaded."""
    stop, overloaded = threading.Event(), threading.Event()

    def ask():
        while not stop.is_set():
            body = json.dumps({"operation_id": os.urandom(16).hex(), "tools": ["agent"]}).encode()
            _, answer = gateway.send("POST", "/api/v1/gate", body, workflow.signed(body))
            if answer["error_code"] == "OVERLOADED":
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
