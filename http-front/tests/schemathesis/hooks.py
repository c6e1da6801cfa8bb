"""Hooks of schemathesis: who calls, what the calls are about, and which statuses each operation has answered.

Generated calls keep what was generated, except for names of things in paths: those exist, or the calls would
find nothing. Where only one body can be right (a password, a token that was mailed), every second call that was
meant to be right has that one.
"""

import collections
import json
import os

import requests
import schemathesis
from schemathesis.core.parameters import ParameterLocation

from world import PASSWORD, World, signature

setup = json.loads(os.environ["NULLRUN_SCHEMATHESIS"])
AS = setup["as"]
world = World(setup["url"], setup["outbox"], setup["issuer"]).adopt(setup["things"])
seen = collections.defaultdict(collections.Counter)
turns = collections.Counter()
# Not for the gateway; for `Signer`: who calls instead of the owner, and that generated headers are wrong and stay.
CALLER, AS_GENERATED = "X-Test-Caller", "X-Test-As-Generated"


class Signer(requests.auth.AuthBase):
    """Signs the request as it goes out."""

    def __call__(self, request):
        token = request.headers.pop(CALLER, None) or world.things["session_token"]
        kept = request.headers.copy() if request.headers.pop(AS_GENERATED, None) else {}
        kept.pop(AS_GENERATED, None)
        if AS == "key":
            body = request.body or b""
            body = body.encode() if isinstance(body, str) else body
            request.headers.update(signature(world.things["api_key"], world.things["secret_key"], body))
        elif request.url.endswith("/metrics") or "/metrics/" in request.url:
            request.headers["Authorization"] = f"Bearer {setup['metrics_token']}"
        else:
            request.headers["Authorization"] = f"Bearer {token}"
        request.headers.update(kept)
        return request


schemathesis.auth.set_from_requests(Signer())


def throwaway(case):
    """Somebody else calls: the call ends or changes something of theirs."""
    token, address = world.fresh_person()
    case.headers[CALLER] = token
    return address


# What a path names: the part of the path before the braces, and what fills it.
FILL = {
    "org_id": lambda _: world.things["org"],
    "workflow_id": lambda _: world.things["workflow"],
    "policy_id": lambda _: world.things["policy"],
    "key_id": lambda _: world.fresh_key(),
    "hold_id": lambda _: world.fresh_hold(),
    "member_id": lambda _: world.fresh_member(),
    "invite_id": lambda _: world.fresh_invite()[0],
    "session_id": lambda _: world.fresh_session_id(),
    "template_id": lambda _: "loop-guard",
    "token": lambda _: world.fresh_invite()[1],
    "model_id": lambda _: "gpt-4o-mini",
    "provider": lambda _: "acme",
    "file": lambda _: "swagger-ui.css",
    "workflow": lambda _: world.things["workflow"],
}
# Operations that use up what they are about, or need it in a state.
FRESH = {
    "delete_organization": {"org_id": lambda _: world.fresh_org()},
    "kill_workflow": {"workflow_id": lambda _: world.fresh_workflow()},
    "pause_workflow": {"workflow_id": lambda _: world.fresh_workflow()},
    "resume_workflow": {"workflow_id": lambda _: world.paused_workflow()},
    "update_workflow": {"workflow_id": lambda _: world.fresh_workflow()},
    "delete_policy": {"policy_id": lambda _: world.fresh_policy()},
    "update_policy": {"policy_id": lambda _: world.fresh_policy()},
    "disable_policy_template": {"template_id": lambda _: world.enabled_template()},
}


def change_password(case):
    throwaway(case)
    return {"current_password": PASSWORD, "new_password": "another long password"}


def reset_password(_):
    _, address = world.fresh_person()
    world.post("/api/v1/auth/password/forgot", {"email": address})
    return {"token": world.mailed(address), "password": "another long password"}


def verify_email(case):
    token, address = world.fresh_person()
    world.post("/api/v1/auth/email/send", {}, token)
    case.headers[CALLER] = token
    return {"token": world.mailed(address)}



# Bodies of which only one is right.
BODIES = {
    "login": lambda _: {"email": "ada@example.com", "password": PASSWORD},
    "register": lambda _: {"email": world.address(), "password": PASSWORD},
    "change_password": change_password,
    "reset_password": reset_password,
    "verify_email": verify_email,
    "oauth_register": lambda _: world.code(),
    "accept_invite": lambda _: {"password": PASSWORD},
    "create_invite": lambda _: {"email": world.address(), "role": "viewer"},
    "verify_key": lambda _: {"api_key": world.things["api_key"]},
    "verify_key_old": lambda _: {"api_key": world.things["api_key"]},
}
# Those that are about the caller.
THROWAWAY = {"logout", "delete_other_sessions", "send_verification", "update_user"}


def is_right(case):
    """Was it meant to be taken?"""
    return case.meta is not None and not any(part.mode.is_negative for part in case.meta.components.values())


def whole(value):
    """Whole numbers without a fraction: 1.0 is as good as 1 to JSON Schema, not to the gateway."""
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schemathesis.hook
def before_call(context, case, kwargs):
    name = case.operation.definition.raw["operationId"]
    path_is_right = case.meta is None or not case.meta.is_negative_at(ParameterLocation.PATH)
    if path_is_right and case.path_parameters:
        fill = {**FILL, **FRESH.get(name, {})}
        case.path_parameters = {part: fill[part](case) for part in case.path_parameters}
    if name in THROWAWAY:
        throwaway(case)
    if case.meta is not None and case.meta.is_negative_at(ParameterLocation.HEADER):
        case.headers[AS_GENERATED] = "yes"
    if not is_right(case):
        return
    # Only what differs: what is set counts as changed.
    if repr(body := whole(case.body)) != repr(case.body):
        case.body = body
    # Only the gateway makes cursors.
    case.query.pop("cursor", None)
    turns[name] += 1
    if turns[name] % 2 == 0:
        return
    if name == "oauth_callback":
        case.query, case.cookies = world.callback()
    elif name in BODIES:
        case.body = BODIES[name](case)


@schemathesis.hook
def after_call(context, case, response):
    seen[case.operation.label][response.status_code] += 1
    with open(setup["seen"], "w", encoding="utf-8") as file:
        json.dump({label: dict(counts) for label, counts in seen.items()}, file)
