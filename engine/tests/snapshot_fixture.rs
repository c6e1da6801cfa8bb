//! Parts of a snapshot as the first version wrote them. They must be read for ever: what they hold is
//! compared with the same records folded today. `NULLRUN_WRITE_FIXTURES=1` writes them anew, which
//! is right only as long as no version with this format was released.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what is wrong by failing"
)]

use engine::directory::MailState;
use engine::price::PriceTable;
use engine::snapshot::{generation_part, read_directory, read_generation};
use engine::{Engine, Settings};
use persist::ids::{SLOTS, Slot};
use persist::record::*;
use persist::{
    Day, HoldId, InviteId, KeyId, Lsn, Millis, Nanos, OrgId, PolicyId, SessionId, UserId,
    WorkflowId,
};
use std::path::PathBuf;
use std::sync::Arc;

const ORG: OrgId = OrgId(0x11);
const WORKFLOW: WorkflowId = WorkflowId(0x22);
const BOUND: KeyId = KeyId(0x33);
const UNBOUND: KeyId = KeyId(0x34);
const CHAIN: u128 = 0x44;
/// 2026-11-24.
const DAY: Day = Day(20_781);

const fn at(secs: u64) -> Millis {
    Millis(DAY.start().0 + secs * 1000)
}

fn engine() -> Engine {
    Engine::new(
        Arc::new(PriceTable::built_in().unwrap()),
        Settings::default(),
    )
}

fn key(id: KeyId, workflow: Option<WorkflowId>) -> Change<'static> {
    Change::KeyAdded(Key {
        id,
        org: ORG,
        workflow,
        name: "k",
        key_hash: [id.0 as u8; 32],
        prefix: "nr_live_abcd",
        suffix: "wxyz",
        sealed_secret: &[1, 2, 3],
        key_version: 1,
        scopes: Scopes::ALL,
        budget: Some(Nanos::from_cents(900)),
        period: PeriodKind::Week,
        calls_per_minute: Some(60),
        expires_at: None,
        created_at: at(0),
    })
}

fn session(id: u128) -> Change<'static> {
    Change::SessionAdded(Session {
        id: SessionId(id),
        token_hash: [id as u8; 32],
        user: UserId(0x55),
        ip: "::1",
        user_agent: "curl",
        created_at: at(0),
        expires_at: at(1_000_000),
    })
}

fn directory() -> Record<'static> {
    let workflow = |name, external_id| Workflow {
        id: WORKFLOW,
        org: ORG,
        name,
        external_id,
        description: "d",
        budget: Some(Nanos::from_cents(500)),
        period: PeriodKind::Rolling30,
        overdraft: Some(Overdraft {
            amount: Some(Nanos::from_cents(50)),
            percent: Some(10),
        }),
        max_per_call: Some(Nanos::from_cents(100)),
        chain_cap: Some(Nanos::from_cents(300)),
        chain_secs: 3600,
        watch: Some(LoopWatch {
            threshold: 5,
            window_secs: 30,
        }),
        approvals: false,
        created_at: at(0),
        updated_at: at(1),
    };
    Record::Directory(DirectoryRecord {
        at: at(1),
        actor: Actor::User(UserId(0x55)),
        changes: vec![
            Change::UserAdded(User {
                id: UserId(0x55),
                email: "a@b",
                name: "n",
                password_hash: "$",
                verified_at: None,
                created_at: at(0),
            }),
            Change::OrgAdded(Org {
                id: ORG,
                name: "o",
                plan: "p",
                contact_email: "c@d",
                budget: Some(Nanos::from_cents(10_000)),
                period: PeriodKind::Month,
                composition: Composition::MostRestrictive,
                created_at: at(0),
            }),
            Change::MemberAdded(Member {
                org: ORG,
                user: UserId(0x55),
                role: Role::Owner,
            }),
            session(0x71),
            session(0x72),
            Change::SessionEnded {
                user: UserId(0x55),
                session: SessionId(0x71),
            },
            Change::IdentityAdded(Identity {
                user: UserId(0x55),
                provider: "github",
                subject: "42",
            }),
            Change::TokenAdded(Token {
                token_hash: [9; 32],
                kind: TokenKind::PasswordReset,
                user: UserId(0x55),
                expires_at: at(3600),
            }),
            Change::InviteAdded(Invite {
                id: InviteId(0x73),
                org: ORG,
                email: "e@f",
                role: Role::Viewer,
                token_hash: [10; 32],
                invited_by: UserId(0x55),
                created_at: at(1),
                expires_at: at(3600),
            }),
            Change::InviteMailed {
                org: ORG,
                invite: InviteId(0x73),
                token_hash: [10; 32],
                sent: true,
            },
            Change::WorkflowAdded(workflow("before", None)),
            Change::WorkflowChanged(workflow("after", Some("x-1"))),
            key(BOUND, Some(WORKFLOW)),
            key(UNBOUND, None),
            Change::KeyRotated(KeyRotation {
                key: UNBOUND,
                key_hash: [11; 32],
                prefix: "nr_live_efgh",
                suffix: "stuv",
                sealed_secret: &[4],
                key_version: 2,
                previous_until: at(60),
            }),
            Change::KeyUsed { key: BOUND },
            Change::PriceSet(ModelPrice {
                model: "m",
                version: 1,
                rates: Some(Rates {
                    input: Nanos(1),
                    output: Nanos(2),
                    cache_read: None,
                    cache_write: None,
                    reasoning: None,
                }),
                effective_at: at(0),
                created_at: at(1),
            }),
            Change::PolicyAdded(Policy {
                id: PolicyId(0x66),
                org: ORG,
                name: "p",
                policy_type: PolicyType::ToolBlock,
                scope: Scope::Org,
                scope_id: None,
                priority: 100,
                action: PolicyAction::Block,
                tools: vec!["bash", "db.*"],
                models: vec!["gpt*"],
                min_cost: None,
                budget: None,
                period: PeriodKind::Month,
                overdraft: None,
                calls_per_minute: None,
                loop_threshold: None,
                loop_window_secs: None,
                is_active: true,
                shadow: true,
                template: Some("t"),
                version: 1,
                created_at: at(1),
                updated_at: at(1),
            }),
        ],
    })
}

fn call(secs: u64, key: KeyId) -> Call<'static> {
    Call {
        at: at(secs),
        org: ORG,
        workflow: WORKFLOW,
        key,
        endpoint: Endpoint::Gate,
        protocol: 4,
        rules: Lsn(1),
        operation_id: Some("op"),
        execution_id: None,
        trace_id: None,
        chain_id: Some("c"),
        model: Some("gpt-4o-mini"),
        tools: "search",
        digest: None,
    }
}

fn mint(secs: u64, key: KeyId, n: u64, begins: bool) -> Record<'static> {
    Record::HoldMinted(HoldMinted {
        call: call(secs, key),
        budget: None,
        hold: HoldId::mint(at(secs), WORKFLOW.slot(ORG), n),
        amount: Nanos::from_cents(20),
        expires_at: at(secs + 300),
        day: DAY,
        operation: Some(Operation {
            key: u128::from(n),
            fingerprint: n,
        }),
        chain: Some(ChainLink {
            chain: CHAIN,
            begins: begins.then_some(ChainTerms {
                cap: Some(Nanos::from_cents(200)),
            }),
        }),
        notes: Vec::new(),
    })
}

fn charge(secs: u64, event: u128) -> Record<'static> {
    Record::Charged(Charged {
        at: at(secs),
        org: ORG,
        workflow: WORKFLOW,
        key: BOUND,
        payer: BOUND,
        hold: Some(HoldId::mint(at(2), WORKFLOW.slot(ORG), 1)),
        day: DAY,
        cost: Nanos::from_cents(7),
        from_hold: Nanos::from_cents(7),
        flags: ChargeFlags::default(),
        price: 0,
        event_key: Some(event),
        event: Event {
            kind: "llm_call",
            model: Some("gpt-4o-mini"),
            ..Event::default()
        },
    })
}

/// A charge without a price.
fn guess(secs: u64, payer: KeyId, day: Day) -> Record<'static> {
    Record::Charged(Charged {
        at: at(secs),
        org: ORG,
        workflow: WORKFLOW,
        key: payer,
        payer,
        hold: None,
        day,
        cost: Nanos(900),
        from_hold: Nanos::ZERO,
        flags: ChargeFlags::PROVISIONAL,
        price: 0,
        event_key: None,
        event: Event {
            kind: "llm_call",
            model: Some("M-2026-01-02"),
            tokens: Tokens {
                total: 60,
                input: 50,
                output: 10,
                cache_read: 20,
                cache_write: 5,
                reasoning: 4,
            },
            ..Event::default()
        },
    })
}

fn rerated() -> Record<'static> {
    Record::Rerated(Rerated {
        at: at(10),
        org: ORG,
        workflow: WORKFLOW,
        payer: BOUND,
        day: DAY,
        model: "m-2026-01-02",
        from: 0,
        to: 1,
        tokens: Rated {
            input: 25,
            output: 6,
            cache_read: 20,
            cache_write: 5,
            reasoning: 4,
        },
        before: Nanos(900),
        after: Nanos(70),
        actor: Actor::System,
    })
}

fn folded() -> Engine {
    let mut engine = engine();
    let records = [
        directory(),
        mint(2, BOUND, 1, true),
        mint(3, UNBOUND, 2, false),
        charge(4, 0x1234 << 100),
        Record::EventsSealed(EventsSealed {
            at: at(5),
            number: 0,
            keep_from: 0,
        }),
        charge(6, 0x4321 << 100),
        Record::WorkflowState(WorkflowStateChanged {
            at: at(7),
            org: ORG,
            workflow: WORKFLOW,
            version: 1,
            from: State::Normal,
            to: State::Paused,
            reason: Some("lunch"),
            actor: Actor::User(UserId(0x55)),
        }),
        guess(8, BOUND, DAY),
        guess(9, UNBOUND, DAY),
        // Too old to be booked anew: counted only.
        guess(9, UNBOUND, DAY.back(40)),
        rerated(),
    ];
    for record in &records {
        engine.fold(record);
    }
    engine
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

#[test]
fn a_snapshot_of_version_1_holds_what_its_records_did() {
    let folded = folded();
    let all = Slot(0)..=Slot(SLOTS - 1);
    let events = |n| folded.dedup().generation(n).unwrap();
    let parts = [
        ("directory-v1.part", folded.directory_part().unwrap()),
        ("slots-v1.part", folded.slots_part(all).unwrap()),
        ("events-0-v1.part", generation_part(&events(0)).unwrap()),
        ("events-1-v1.part", generation_part(&events(1)).unwrap()),
    ];
    if std::env::var_os("NULLRUN_WRITE_FIXTURES").is_some() {
        for (name, bytes) in &parts {
            std::fs::write(file(name), bytes).unwrap();
        }
    }
    let [directory, slots, first, second] = parts.map(|(name, _)| {
        std::fs::read(file(name)).unwrap_or_else(|error| panic!("tests/golden/{name}: {error}"))
    });
    let mut restored = engine();
    restored.restore_directory(read_directory(&directory).unwrap());
    restored.restore_slots(&slots).unwrap();
    let generations = [first, second].map(|bytes| read_generation(&bytes).unwrap());
    restored.dedup().restore(&generations, 0);
    assert_eq!(restored.state_hash().unwrap(), folded.state_hash().unwrap());
    let shard = restored.shard_with(ORG, WORKFLOW).unwrap();
    let live = shard.workflow(WORKFLOW).unwrap();
    let spent = Nanos::from_cents(14) + Nanos(900 + 70);
    assert_eq!(live.account.since(DAY).spent, spent);
    let (_, ratings) = shard.ratings.behind(None).next().unwrap();
    assert_eq!(ratings.lost, 1);
    let rows = ratings.rows();
    let rows: Vec<_> = rows
        .map(|row| (row.payer, row.version, row.sum.cost))
        .collect();
    assert_eq!(rows, [(BOUND, 1, Nanos(70)), (UNBOUND, 0, Nanos(900))]);
    assert!(ratings.rows().all(|row| row.model == "m-2026-01-02"));
    assert_eq!(live.account.since(DAY).held, Nanos::from_cents(26));
    assert_eq!(live.standing().state, State::Paused);
    assert_eq!(shard.holds_of(WORKFLOW).count(), 2);
    assert_eq!(shard.chain(CHAIN).unwrap().sums.held, Nanos::from_cents(26));
    let directory = restored.directory().unwrap();
    assert_eq!(directory.resolve(ORG, "before"), Some(WORKFLOW));
    assert_eq!(directory.sessions_of(UserId(0x55), at(1)).count(), 1);
    assert!(directory.user_by_identity("github", "42").is_some());
    let invite = directory.invite_by_hash(&[10; 32], at(1)).unwrap();
    assert_eq!(invite.mail, MailState::Sent);
    let member = directory.org(ORG).unwrap().members[0];
    assert_eq!(member.joined_at, at(1));
    let key = directory.key_by_hash(&[UNBOUND.0 as u8; 32]).unwrap();
    assert!(key.accepts(&key.key_hash, at(61)));
    assert!(key.accepts(&[UNBOUND.0 as u8; 32], at(60)));
    assert!(!key.accepts(&[UNBOUND.0 as u8; 32], at(61)));
    assert_eq!(directory.prices().at("m", at(1)).unwrap().version, 1);
}
