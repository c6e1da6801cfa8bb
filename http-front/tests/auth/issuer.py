"""A real OpenID issuer on this machine, and beside it what GitHub has instead.

oidc-provider-mock does not look at PKCE: here a code is worth nothing without the
verifier whose challenge came with it. Claims given to a user go into the ID token
as they are, so that a test makes forged ones; `_tampered` breaks the signature.
"""

import base64
import contextlib
import hashlib
import io
import logging
import secrets
import sys

with contextlib.redirect_stderr(io.StringIO()):  # It warns of its own dependencies.
    import flask
    from authlib.oauth2.rfc6749.errors import InvalidGrantError
    from oidc_provider_mock import _app
    from werkzeug.serving import make_server

logging.disable(logging.CRITICAL)

challenges = {}
Grant = _app.AuthorizationCodeGrant
save, validate = Grant.save_authorization_code, Grant.validate_token_request


def s256(verifier):
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def save_with_challenge(self, code, request):
    assert flask.request.args["code_challenge_method"] == "S256"
    challenges[code] = flask.request.args["code_challenge"]
    return save(self, code, request)


def validate_with_verifier(self):
    validate(self)
    form = flask.request.form
    if challenges.get(form["code"]) != s256(form.get("code_verifier", "")):
        raise InvalidGrantError("the verifier does not fit")


Grant.save_authorization_code = save_with_challenge
Grant.validate_token_request = validate_with_verifier
app = _app.app(require_nonce=False)
app.debug = False


@app.before_request
def look_at_secret():
    """The mock takes any secret; a real issuer does not, and some repeat what they were sent."""
    given = flask.request.authorization
    if flask.request.path == "/oauth2/token" and given and given.password == "acme-wr0ng":
        return {"error": "invalid_client", "error_description": given.password}, 401


@app.after_request
def tamper(response):
    if flask.request.path == "/oauth2/token" and response.is_json:
        body = response.get_json()
        head, claims, signature = body.get("id_token", "..").split(".")
        text = base64.urlsafe_b64decode(claims + "==")
        if b'"_tampered"' in text:
            text = text.replace(b'"_tampered"', b'"_Tampered"')
            claims = base64.urlsafe_b64encode(text).rstrip(b"=").decode()
            body["id_token"] = ".".join((head, claims, signature))
            response.set_data(flask.json.dumps(body))
    return response


# What GitHub has: a code for a token, and its own words about the person.
github = {}


@app.post("/login/oauth/authorize")
def github_authorize():
    code, query = secrets.token_urlsafe(8), flask.request.args
    assert query["code_challenge_method"] == "S256"
    github[code] = (query["code_challenge"], flask.request.form["sub"])
    return flask.redirect(f"{query['redirect_uri']}?code={code}&state={query['state']}")


@app.post("/login/oauth/access_token")
def github_token():
    form = flask.request.form
    challenge, sub = github.pop(form["code"], (None, None))
    if (form["client_id"], form["client_secret"]) != ("hub", "hub-s3cret"):
        return {"error": "incorrect_client_credentials", "error_description": form["client_secret"]}
    if challenge != s256(form["code_verifier"]):
        return {"error": "bad_verification_code", "error_description": "it is over"}
    github["token " + sub] = sub
    return {"access_token": sub, "token_type": "bearer", "scope": "read:user,user:email"}


def github_user():
    return github["token " + flask.request.headers["Authorization"].removeprefix("Bearer ")]


@app.get("/api/v3/user")
def github_person():
    assert flask.request.headers["User-Agent"].startswith("nullrun/")
    return {"id": 4711, "login": github_user(), "name": None}


@app.get("/api/v3/user/emails")
def github_emails():
    return [
        {"email": "other@example.com", "primary": False, "verified": True},
        {"email": f"{github_user()}@example.com", "primary": True, "verified": True},
    ]


server = make_server("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, app, threaded=True)
print("port", server.port, flush=True)
server.serve_forever()
