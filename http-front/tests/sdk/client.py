"""An agent built on a published client; runs inside that client's environment.

Reads one command a line from standard input and answers each with one line of
JSON. It knows nothing of the gateway: what it does is what any program of a
user does with `nullrun.init`, `nullrun.protect` and the track functions.
"""

import json
import os
import sys

# The client library may print; the answers need a channel of their own.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import httpx  # noqa: E402
import nullrun  # noqa: E402
from nullrun.runtime import track as track_event  # noqa: E402


def call(tool, llm_answers=(), sensitive=False):
    """Calls a protected function named `tool` that asks its LLM once per answer."""
    ran = False

    def body():
        nonlocal ran
        ran = True
        for url, answer in llm_answers:
            llm = httpx.MockTransport(lambda _, answer=answer: httpx.Response(200, json=answer))
            with httpx.Client(transport=llm) as http:
                http.post(url, json={"messages": []})

    body.__name__ = tool
    protected = nullrun.protect(body)
    if sensitive:
        from nullrun.decorators import sensitive as mark
        protected = mark(protected)
    error = None
    try:
        protected()
    except BaseException as refusal:  # a kill is not an Exception in some versions
        error = f"{type(refusal).__name__}: {refusal}"
    return {"ran": ran, "error": error}


def track(count, model, input_tokens):
    """Tracks `count` LLM calls by hand, outside any protected function."""
    for number in range(count):
        track_event({
            "type": "llm_call",
            "tool_name": f"step_{number}",  # 0.4.0 sends only six of one name a minute
            "model": model,
            "tokens": input_tokens,
            "input_tokens": input_tokens,
            "output_tokens": 0,
        })
    return {}


runtime = nullrun.init()
print("{}", file=answers)
for line in sys.stdin:
    command = json.loads(line)
    do = {"call": call, "track": track}[command.pop("do")]
    print(json.dumps(do(**command)), file=answers)
runtime.shutdown()
