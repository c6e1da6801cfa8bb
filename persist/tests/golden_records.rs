//! The exact bytes of every record and change. A difference here means that logs written before
//! cannot be read any more: append a new variant instead.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what is wrong by failing"
)]

use persist::record::*;
use persist::{
    Day, HoldId, InviteId, KeyId, Lsn, Millis, Nanos, OrgId, PolicyId, SessionId, UserId,
    WorkflowId,
};
use std::fmt::Write as _;

const AT: Millis = Millis(1_795_462_753_000);
const ORG: OrgId = OrgId(0x11);
const WORKFLOW: WorkflowId = WorkflowId(0x22);
const KEY: KeyId = KeyId(0x33);
const HOLD: HoldId = HoldId(0x44);

fn call() -> Call<'static> {
    Call {
        at: AT,
        org: ORG,
        workflow: WORKFLOW,
        key: KEY,
        endpoint: Endpoint::Execute,
        protocol: 4,
        rules: Lsn(9),
        operation_id: Some("op"),
        execution_id: Some("ex"),
        trace_id: None,
        chain_id: Some("c"),
        model: Some("m"),
        tools: "a\nb",
        digest: Some("d"),
    }
}

const BUDGET: Arithmetic = Arithmetic {
    scope: Scope::Workflow,
    period: PeriodKind::Rolling30,
    cap: Nanos(500),
    overdraft: Nanos(7),
    spent: Nanos(1),
    held: Nanos(2),
    asked: Nanos(-3),
};

const OVERDRAFT: Overdraft = Overdraft {
    amount: Some(Nanos(300)),
    percent: None,
};

const LINK: ChainLink = ChainLink {
    chain: 0xaa,
    begins: Some(ChainTerms {
        cap: Some(Nanos(9)),
    }),
};

const DAY: Day = Day(20_780);

const OPERATION: Operation = Operation {
    key: 0x55,
    fingerprint: 0x66,
};

fn directory(change: Change<'static>) -> Record<'static> {
    Record::Directory(DirectoryRecord {
        at: AT,
        actor: Actor::User(UserId(0x77)),
        changes: vec![change],
    })
}

fn workflow() -> Workflow<'static> {
    Workflow {
        id: WORKFLOW,
        org: ORG,
        name: "w",
        external_id: Some("x"),
        description: "d",
        budget: Some(Nanos(500)),
        period: PeriodKind::Lifetime,
        overdraft: Some(OVERDRAFT),
        max_per_call: None,
        chain_cap: Some(Nanos(6)),
        chain_secs: 3600,
        watch: Some(LoopWatch {
            threshold: 6,
            window_secs: 60,
        }),
        approvals: true,
        created_at: AT,
        updated_at: AT,
    }
}

fn org() -> Org<'static> {
    Org {
        id: ORG,
        name: "o",
        plan: "p",
        contact_email: "a@b",
        budget: None,
        period: PeriodKind::Day,
        composition: Composition::MostRestrictive,
        created_at: AT,
    }
}

fn policy() -> Policy<'static> {
    Policy {
        id: PolicyId(0x88),
        org: ORG,
        name: "p",
        policy_type: PolicyType::ToolBlock,
        scope: Scope::ApiKey,
        scope_id: Some(0x33),
        priority: -1,
        action: PolicyAction::Block,
        tools: vec!["bash", "db.*"],
        models: vec!["gpt*"],
        min_cost: Some(Nanos(1)),
        budget: None,
        period: PeriodKind::Week,
        overdraft: None,
        calls_per_minute: Some(60),
        loop_threshold: Some(6),
        loop_window_secs: None,
        is_active: true,
        shadow: true,
        template: Some("t"),
        version: 3,
        created_at: AT,
        updated_at: AT,
    }
}

fn records() -> Vec<(&'static str, Record<'static>)> {
    let key = Key {
        id: KEY,
        org: ORG,
        workflow: Some(WORKFLOW),
        name: "k",
        key_hash: [7; 32],
        prefix: "nr_live_abcd",
        suffix: "wxyz",
        sealed_secret: &[1, 2, 3],
        key_version: 2,
        scopes: Scopes::ALL,
        budget: Some(Nanos(5)),
        period: PeriodKind::Month,
        calls_per_minute: Some(60),
        expires_at: Some(AT),
        created_at: AT,
    };
    let user = User {
        id: UserId(0x77),
        email: "a@b",
        name: "n",
        password_hash: "$",
        verified_at: Some(AT),
        created_at: AT,
    };
    let session = Session {
        id: SessionId(0x78),
        token_hash: [8; 32],
        user: UserId(0x77),
        ip: "::1",
        user_agent: "curl",
        created_at: AT,
        expires_at: AT,
    };
    let tokens = Tokens {
        total: 1,
        input: 2,
        output: 3,
        cache_read: 4,
        cache_write: 5,
        reasoning: 6,
    };
    let event = Event {
        kind: "llm_call",
        event_id: Some("e"),
        model: Some("m"),
        provider: Some("p"),
        tokens,
        tool: Some("t"),
        trace_id: Some("tr"),
        span_id: Some("s"),
        parent_span_id: None,
        execution_id: Some("x"),
        label: Some("l"),
        agent_id: None,
        latency_ms: Some(321),
        error: Some("boom"),
    };
    let cause = Cause {
        code: "TOOL_BLOCKED",
        policy: Some(PolicyId(0x88)),
        policy_version: 3,
        tool: "bash",
        pattern: "b*",
        budget: Some(BUDGET),
    };
    let note = Note {
        policy: PolicyId(0x89),
        version: 4,
        shadow: true,
        refuses: true,
    };
    let minted = HoldMinted {
        call: call(),
        budget: Some(BUDGET),
        hold: HOLD,
        amount: Nanos(10),
        expires_at: AT,
        day: DAY,
        operation: Some(OPERATION),
        chain: Some(LINK),
        notes: vec![note],
    };
    let charged = Charged {
        at: AT,
        org: ORG,
        workflow: WORKFLOW,
        key: KEY,
        payer: KeyId(0x34),
        hold: Some(HOLD),
        day: DAY,
        cost: Nanos(47_000),
        from_hold: Nanos(10),
        flags: ChargeFlags::PROVISIONAL.with(ChargeFlags::NOT_NORMAL),
        price: 7,
        event_key: Some(0x99),
        event,
    };
    let ended = HoldEnded {
        at: AT,
        org: ORG,
        workflow: WORKFLOW,
        key: KEY,
        hold: HOLD,
        day: DAY,
        released: Nanos(4),
        reason: EndReason::Released,
        note: Some("stuck"),
        actor: Actor::Key(KEY),
    };
    let state = WorkflowStateChanged {
        at: AT,
        org: ORG,
        workflow: WORKFLOW,
        version: 2,
        from: State::Paused,
        to: State::Killed,
        reason: Some("why"),
        actor: Actor::System,
    };
    let invite = Invite {
        id: InviteId(0x79),
        org: ORG,
        email: "a@b",
        role: Role::Admin,
        token_hash: [9; 32],
        invited_by: UserId(0x77),
        created_at: AT,
        expires_at: AT,
    };
    let rates = Rates {
        input: Nanos(1),
        output: Nanos(2),
        cache_read: Some(Nanos(3)),
        cache_write: None,
        reasoning: None,
    };
    let rerated = Rerated {
        at: AT,
        org: ORG,
        workflow: WORKFLOW,
        payer: KEY,
        day: DAY,
        model: "m",
        from: 0,
        to: 7,
        tokens: Rated {
            input: 1,
            output: 2,
            cache_read: 3,
            cache_write: 4,
            reasoning: 5,
        },
        before: Nanos(10),
        after: Nanos(4),
        actor: Actor::System,
    };
    let member = Member {
        org: ORG,
        user: UserId(0x77),
        role: Role::Owner,
    };
    vec![
        ("user_added", directory(Change::UserAdded(user.clone()))),
        ("user_changed", directory(Change::UserChanged(user))),
        (
            "identity_added",
            directory(Change::IdentityAdded(Identity {
                user: UserId(0x77),
                provider: "github",
                subject: "42",
            })),
        ),
        (
            "token_added",
            directory(Change::TokenAdded(Token {
                token_hash: [9; 32],
                kind: TokenKind::VerifyEmail,
                user: UserId(0x77),
                expires_at: AT,
            })),
        ),
        (
            "token_used",
            directory(Change::TokenUsed {
                token_hash: [9; 32],
            }),
        ),
        ("org_removed", directory(Change::OrgRemoved { org: ORG })),
        (
            "member_changed",
            directory(Change::MemberChanged(member.clone())),
        ),
        (
            "member_removed",
            directory(Change::MemberRemoved {
                org: ORG,
                user: UserId(0x77),
            }),
        ),
        (
            "invite_added",
            directory(Change::InviteAdded(invite.clone())),
        ),
        ("invite_changed", directory(Change::InviteChanged(invite))),
        (
            "invite_ended",
            directory(Change::InviteEnded {
                org: ORG,
                invite: InviteId(0x79),
                end: InviteEnd::Revoked,
            }),
        ),
        (
            "session_ended",
            directory(Change::SessionEnded {
                user: UserId(0x77),
                session: SessionId(0x78),
            }),
        ),
        (
            "sessions_ended",
            directory(Change::SessionsEnded {
                user: UserId(0x77),
                but: Some(SessionId(0x78)),
            }),
        ),
        (
            "key_rotated",
            directory(Change::KeyRotated(KeyRotation {
                key: KEY,
                key_hash: [6; 32],
                prefix: "nr_live_efgh",
                suffix: "stuv",
                sealed_secret: &[4, 5],
                key_version: 3,
                previous_until: AT,
            })),
        ),
        ("key_used", directory(Change::KeyUsed { key: KEY })),
        (
            "price_set",
            directory(Change::PriceSet(ModelPrice {
                model: "m",
                version: 7,
                rates: Some(rates),
                effective_at: AT,
                created_at: AT,
            })),
        ),
        (
            "invite_mailed",
            directory(Change::InviteMailed {
                org: ORG,
                invite: InviteId(0x79),
                token_hash: [9; 32],
                sent: true,
            }),
        ),
        ("rerated", Record::Rerated(rerated)),
        ("org_added", directory(Change::OrgAdded(org()))),
        ("org_changed", directory(Change::OrgChanged(org()))),
        ("member_added", directory(Change::MemberAdded(member))),
        ("session_added", directory(Change::SessionAdded(session))),
        (
            "workflow_added",
            directory(Change::WorkflowAdded(workflow())),
        ),
        (
            "workflow_changed",
            directory(Change::WorkflowChanged(workflow())),
        ),
        ("key_added", directory(Change::KeyAdded(key))),
        ("key_revoked", directory(Change::KeyRevoked { key: KEY })),
        ("policy_added", directory(Change::PolicyAdded(policy()))),
        ("policy_changed", directory(Change::PolicyChanged(policy()))),
        (
            "policy_removed",
            directory(Change::PolicyRemoved {
                org: ORG,
                policy: PolicyId(0x88),
            }),
        ),
        (
            "refused",
            Record::Refused(Refused {
                call: call(),
                cause,
                notes: vec![note],
            }),
        ),
        ("hold_minted", Record::HoldMinted(minted)),
        (
            "hold_used",
            Record::HoldUsed(HoldUsed {
                call: call(),
                hold: HOLD,
                operation: None,
                chain: None,
                notes: Vec::new(),
            }),
        ),
        ("charged", Record::Charged(charged)),
        ("hold_ended", Record::HoldEnded(ended)),
        ("workflow_state", Record::WorkflowState(state)),
        (
            "chain_renewed",
            Record::ChainRenewed(ChainRenewed {
                at: AT,
                org: ORG,
                workflow: WORKFLOW,
                chain: 0xaa,
                expires_at: AT,
                key: KEY,
            }),
        ),
        (
            "chain_ended",
            Record::ChainEnded(ChainEnded {
                at: AT,
                org: ORG,
                workflow: WORKFLOW,
                chain: 0xaa,
                reason: ChainEnd::Idle,
                actor: Actor::System,
            }),
        ),
        (
            "events_sealed",
            Record::EventsSealed(EventsSealed {
                at: AT,
                number: 3,
                keep_from: 1,
            }),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn every_record_has_the_bytes_it_always_had_and_reads_back_equal() {
    let golden = include_str!("golden/records-v1.txt");
    let mut missing = String::new();
    for (name, record) in records() {
        let bytes = postcard::to_stdvec(&record).unwrap();
        let line = format!("{name} {}", hex(&bytes));
        if !golden.lines().any(|known| known == line) {
            writeln!(missing, "{line}").unwrap();
        }
        let back: Record<'_> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back, record, "{name}");
    }
    assert!(
        missing.is_empty(),
        "these bytes differ from golden/records-v1.txt. If a variant is new, add its line; if an old \
         one changed, old logs can no longer be read:\n{missing}"
    );
}

#[test]
fn every_old_line_is_still_a_record() {
    for line in include_str!("golden/records-v1.txt").lines() {
        let (name, digits) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        if let Err(error) = postcard::from_bytes::<Record<'_>>(&bytes) {
            panic!("{name} cannot be read any more: {error}");
        }
    }
}
