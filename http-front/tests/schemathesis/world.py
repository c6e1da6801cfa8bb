"""What there is on the gateway for calls to be about: an owner who runs the gateway, an organization, and a
fresh thing for each call that uses one up."""

import email
import email.policy
import hashlib
import hmac
import itertools
import json
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request

PASSWORD = "correct horse battery"
# A PKCE verifier and its challenge (RFC 7636, appendix B).
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
BACK = "http://127.0.0.1:9/back"


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


opener = urllib.request.build_opener(NoRedirects)


def ask(method, url, body=None, headers=()):
    """Status, headers and body of an answer."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **dict(headers)}, method=method)
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers, refused.read()


signed_calls = itertools.count()


def signature(key, secret, body):
    """The headers of a signed request. Of two with one body, neither may have the other's signature: they are
    signed at different seconds, all of them within what the gateway takes."""
    now = str(int(time.time()) - next(signed_calls) % 200)
    digest = hashlib.sha256(body).hexdigest()
    signed = hmac.new(secret.encode(), f"{now}:{key}:{digest}".encode(), hashlib.sha256)
    return {"X-API-Key": key, "X-Signature": signed.hexdigest(), "X-Signature-Timestamp": now}


class World:
    def __init__(self, url, outbox, issuer):
        self.url, self.outbox, self.issuer = url, pathlib.Path(outbox), issuer
        self.things = {}
        # Several processes may furnish one gateway.
        self.names = (f"{time.time_ns():x}-{n}" for n in itertools.count())
        self.mails = set(self.outbox.glob("*.eml"))

    def furnish(self):
        """Makes what calls have in common; returns it, for `adopt` in another process."""
        made = self.post("/api/v1/auth/register", {"email": "ada@example.com", "password": PASSWORD})
        self.things = {name: made[name] for name in ("api_key", "secret_key", "session_token")}
        self.verify_address("ada@example.com", made["session_token"])
        session = self.get("/api/v1/auth/session")
        self.things["org"] = session["organizations"][0]["id"]
        self.things["workflow"] = self.fresh_workflow()
        self.things["policy"] = self.fresh_policy()
        return self.things

    def adopt(self, things):
        self.things = things
        return self

    # Asking.

    def call(self, method, path, body=None, token=None):
        token = token or self.things.get("session_token")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        status, _, text = ask(method, self.url + path, body, headers)
        if status >= 300:
            raise RuntimeError(f"{method} {path} was answered {status}: {text[:500]}")
        return json.loads(text) if text else None

    def get(self, path, token=None):
        return self.call("GET", path, None, token)

    def post(self, path, body, token=None):
        return self.call("POST", path, body, token)

    def org(self, rest):
        return f"/api/v1/orgs/{self.things['org']}{rest}"

    def mailed(self, address):
        """The token in the newest mail to an address."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for path in sorted(set(self.outbox.glob("*.eml")) - self.mails):
                mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
                if mail["To"] is None or address not in mail["To"]:
                    continue
                self.mails.add(path)
                if found := re.search(r"token=([A-Za-z0-9_-]+)", mail.get_body(("plain",)).get_content()):
                    return found[1]
            time.sleep(0.02)
        raise RuntimeError(f"no mail to {address} came in time")

    def address(self):
        return f"p{next(self.names)}@example.com"

    # Fresh things, each for one call.

    def fresh_person(self):
        """The session of somebody new, and their address."""
        address = self.address()
        made = self.post("/api/v1/auth/register", {"email": address, "password": PASSWORD})
        return made["session_token"], address

    def verify_address(self, address, token):
        self.post("/api/v1/auth/email/send", {}, token)
        body = {"token": self.mailed(address)}
        self.call("POST", "/api/v1/auth/email/verify", body, token)

    def fresh_session(self):
        body = {"email": "ada@example.com", "password": PASSWORD}
        return self.post("/api/v1/auth/login", body)["session_token"]

    def fresh_session_id(self):
        token = self.fresh_session()
        sessions = self.get("/api/v1/auth/sessions", token)["data"]
        return next(one["id"] for one in sessions if one.get("current"))

    def fresh_workflow(self):
        return self.post(self.org("/workflows"), {"name": f"w {next(self.names)}"})["id"]

    def paused_workflow(self):
        workflow = self.fresh_workflow()
        self.post(self.org(f"/workflows/{workflow}/pause"), {})
        return workflow

    def fresh_policy(self):
        config = {"max_calls_per_minute": 1_000_000}
        body = {"name": f"p {next(self.names)}", "policy_type": "RateLimit", "config": config}
        return self.post(self.org("/policies"), body)["id"]

    def enabled_template(self):
        self.post(self.org("/policies/templates/loop-guard/enable"), {})
        return "loop-guard"

    def fresh_key(self):
        return self.post(self.org("/api-keys"), {"name": f"k {next(self.names)}"})["id"]

    def fresh_hold(self):
        body = json.dumps({"model": "gpt-4o-mini", "max_output_tokens": 100}).encode()
        headers = signature(self.things["api_key"], self.things["secret_key"], body)
        status, _, text = ask("POST", f"{self.url}/api/v1/gate", body, headers)
        answer = json.loads(text)
        if "reservation_id" not in answer:
            raise RuntimeError(f"no hold: {status} {text[:500]}")
        return answer["reservation_id"]

    def fresh_invite(self):
        """The id and the token of an open invitation."""
        address = self.address()
        made = self.post(self.org("/invites"), {"email": address, "role": "viewer"})
        return made["id"], self.mailed(address)

    def fresh_member(self):
        _, token = self.fresh_invite()
        status, _, text = ask("POST", f"{self.url}/api/v1/invites/{token}/accept", {"password": PASSWORD})
        if status != 201:
            raise RuntimeError(f"nobody joined: {status} {text[:500]}")
        joined = json.loads(text)
        return joined["user_id"]

    def fresh_org(self):
        return self.post("/api/v1/orgs", {"name": f"o {next(self.names)}"})["id"]

    # Signing in through the issuer.

    def consent(self, url, person):
        ask("PUT", f"{self.issuer}/users/{person}", {"email": f"{person}@example.com", "email_verified": True})
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        status, headers, _ = ask("POST", url, f"sub={person}".encode(), form)
        if status != 302:
            raise RuntimeError(f"the issuer answered {status}")
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(headers["Location"]).query))

    def code(self):
        """A request of a client that led the browser itself."""
        query = {
            "client_id": "acme-id",
            "response_type": "code",
            "scope": "openid email profile",
            "state": "s",
            "redirect_uri": BACK,
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        url = f"{self.issuer}/oauth2/authorize?{urllib.parse.urlencode(query)}"
        code = self.consent(url, f"o{next(self.names)}")["code"]
        return {"provider": "acme", "code": code, "code_verifier": VERIFIER, "redirect_uri": BACK, "state": "s"}

    def callback(self):
        """The query and the cookies of a browser that comes back from the issuer."""
        status, headers, _ = ask("GET", f"{self.url}/api/v1/auth/oauth/acme/start")
        if status != 302:
            raise RuntimeError(f"a sign-in did not begin: {status}")
        cookies = dict(one.split(";")[0].split("=", 1) for one in headers.get_all("Set-Cookie"))
        return self.consent(headers["Location"], f"o{next(self.names)}"), cookies
