"""What is checked of every published client, one function for each check."""

import concurrent.futures
import contextlib
import json
import threading
import time

import environments
from gateway import flood

CENT_NANOS = 10_000_000


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


def expect_spent(workflow, nanos):
    """The workflow, the organization's status and the ledger's records agree on `nanos`."""
    ask = workflow.account.ask
    rows = {row["workflow_id"]: row for row in ask("GET", "/status")["workflows"]}
    ledger = ask("GET", "/ledger/verify")
    recomputed = {row["workflow_id"]: row["recomputed"] for row in ledger["workflows"]}
    shown = {
        "the workflow": workflow.read()["spent_nanos"],
        "/status": rows[workflow.id]["spent_nanos"],
        "/ledger/verify": recomputed[workflow.id]["spent_nanos"],
    }
    assert set(shown.values()) == {nanos}, f"spent {shown}, {nanos} nanos expected"
    assert ledger["verified"], f"/ledger/verify does not agree: {ledger}"


def await_spent(workflow, nanos):
    """Waits until charges that clients send in the background have come."""
    deadline = time.monotonic() + 10
    while workflow.read()["spent_nanos"] != nanos and time.monotonic() < deadline:
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
    held = workflow.read()["held_nanos"]
    assert held == 0, f"the call has ended and still holds {held} nanos"


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
        client.is_stopped("agent", because="budget")
    expect_spent(workflow, 0)


def spent_budget_stops(stage):
    workflow = stage.account.workflow("one cent", budget_cents=1)
    spent = 20_000 * 600
    assert spent > CENT_NANOS
    with stage.client(workflow) as client:
        client.runs("agent", openai_answer("c1", prompt=0, completion=20_000))
        await_spent(workflow, spent)
        client.is_stopped("agent", because="budget")
    expect_spent(workflow, spent)


def kill_stops(stage):
    workflow = stage.account.workflow("killed")
    with stage.client(workflow) as client:
        client.runs("agent")
        workflow.order("kill")
        client.is_stopped("agent", because="kill")
    with stage.client(workflow) as client:
        client.is_stopped("agent", because="kill")


def pause_stops_until_resume(stage):
    workflow = stage.account.workflow("paused")
    with stage.client(workflow) as client:
        client.runs("agent")
        workflow.order("pause")
        client.is_stopped("agent", because="pause")
        workflow.order("resume")
        client.runs("agent")


def blocked_tool_stops(stage):
    workflow = stage.account.workflow("tools")
    workflow.block_tool("wipe_*")
    with stage.client(workflow) as client:
        if stage.traits.names_tools:
            client.is_stopped("wipe_disk", because="tool")
        else:
            client.runs("wipe_disk")
        if stage.traits.has_sensitive:
            client.is_stopped("wipe_tape", because="tool", sensitive=True)
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


def rotation_refuses_nobody(stage):
    """Agents call without a pause while their key is rotated, and keep the old one; new agents
    come with the new one."""
    workflow = stage.account.workflow("rotated")
    before, after = threading.Event(), threading.Event()
    counts = []

    def agent(number, client):
        calls = {"before": 0, "after": 0}
        while calls["after"] < 10:
            client.runs("agent", openai_answer(f"{number}-{calls}", prompt=12, completion=5))
            calls["after" if after.is_set() else "before"] += 1
            if calls["before"] >= 5:
                before.set()
        counts.append(calls)

    with contextlib.ExitStack() as clients:
        agents = [clients.enter_context(stage.client(workflow)) for _ in range(2)]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = [pool.submit(agent, *numbered) for numbered in enumerate(agents)]
            assert before.wait(60), "the agents do not get on"
            renewed = workflow.rotated(overlap_secs=600)
            after.set()
            newcomer = clients.enter_context(stage.client(renewed))
            running.append(pool.submit(agent, len(agents), newcomer))
            for one in running:
                one.result()  # raises if a single body did not run
        for client in [*agents, newcomer]:
            refused = [said for said in client.relay.exchanges if said.status in (401, 403)]
            assert not refused, f"refused: {[said.describe() for said in refused]}"
    calls = sum(count["before"] + count["after"] for count in counts)
    cost = 12 * 150 + 5 * 600
    if stage.traits.protocol is None:  # 0.4.0 sends six events without a tool's name a minute
        calls = sum(
            said.body.count(b'"llm_call"')
            for client in [*agents, newcomer] for said in client.relay.of("/api/v1/track/batch")
        )
    await_spent(workflow, calls * cost)


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
            client.is_stopped("agent", because="deadline")


def full_queue_lets_no_body_run(stage):
    workflow = stage.account.workflow("full queue")
    with stage.client(workflow, **EVENTS_AT_THE_END) as client:
        client.runs("agent")
        # Of the same workflow: with several pumps each has a queue, and this fills the right one.
        with stage.gateway.hung_disk(), flood(stage.gateway, workflow):
            client.is_stopped("agent")
    last_gate = client.relay.of("/api/v1/gate")[-1]
    assert b'"OVERLOADED"' in last_gate.answer, f"the last gate: {last_gate.describe()}"


SCENARIOS = {
    "spend of a protected call is exact to the nano-dollar": spend_is_exact,
    "protocol, signatures and routes are as documented": wire_is_as_documented,
    "budget of zero stops the body": budget_of_zero_stops,
    "budget spent by charges stops the body": spent_budget_stops,
    "kill stops the body, of a running process and of a new one": kill_stops,
    "pause stops a running process until resume": pause_stops_until_resume,
    "blocked tool stops the body where the client names it": blocked_tool_stops,
    "120 events count once each, replayed not again": batch_counts_each_event_once,
    "three equal LLM calls are three charges": equal_calls_are_charged_each,
    "a key rotated under load refuses no call": rotation_refuses_nobody,
}
ONLY_NEWEST = {"starts and is billed with websockets installed": starts_with_websockets}
ON_A_HANGING_DISK = {
    "hung disk lets no body run": hung_disk_lets_no_body_run,
    "full queue lets no body run": full_queue_lets_no_body_run,
}
