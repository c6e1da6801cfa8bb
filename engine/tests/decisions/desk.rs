//! A desk to ask an engine at: one org with a workflow and a key, a clock that is moved by hand, and
//! every record kept. A change to the directory is durable as soon as it is made.

use engine::command::{
    Ask, Block, Command, Decision, OrgView, Outcome, Protocol, Reported, Track, Tracked,
    Transition, Verdict, WorkflowView,
};
use engine::directory::Directory;
use engine::manage::{
    Manage, NewKey, PolicyDraft, Registration, Terms, WorkflowPatch, WorkflowSettings,
};
use engine::price::PriceTable;
use engine::{Engine, Settings};
use persist::group_commit::Batch;
use persist::record::{
    Actor, Composition, Endpoint, Operation, PolicyAction, PolicyType, Record, Scope, Scopes,
    Session, Tokens,
};
use persist::{HoldId, KeyId, Lsn, Millis, Nanos, OrgId, PolicyId, UserId, WorkflowId};
use std::sync::Arc;

pub const ORG: OrgId = OrgId(1);
pub const WORKFLOW: WorkflowId = WorkflowId(2);
pub const KEY: KeyId = KeyId(3);
/// Noon of 15 June 2026.
pub const NOON: u64 = 1_781_524_800_000;

/// `small` costs 1,000 nano-dollars per input token and 4,000 per output token.
const PRICES: &str = r#"{"source":"a test","retrieved":"never",
 "provisional":{"input":9000000000,"output":9000000000,"cache_read":9000000000,
                "cache_write":9000000000,"reasoning":9000000000},
 "models":[{"model":"small","provider":"openai","input":1000000000,"output":4000000000,
            "cache_read":100000000,"cache_write":1000000000,"reasoning":4000000000}]}"#;

pub const fn cents(n: i64) -> Nanos {
    Nanos::from_cents(n)
}

pub struct Desk {
    pub engine: Engine,
    pub published: Directory,
    batch: Batch,
    serial: u128,
    lsn: u64,
}

impl Desk {
    pub fn new() -> Self {
        let prices = Arc::new(PriceTable::from_json(PRICES).unwrap());
        let mut desk = Self {
            engine: Engine::new(prices, Settings::default()),
            published: Directory::default(),
            batch: Batch::default(),
            serial: 1000,
            lsn: 0,
        };
        desk.clock(NOON);
        desk.sign_up(ORG, WORKFLOW, KEY);
        desk
    }

    pub fn fresh(&mut self) -> u128 {
        self.serial += 1;
        self.serial
    }

    /// Another org with a workflow and a key.
    pub fn sign_up(&mut self, org: OrgId, workflow: WorkflowId, key: KeyId) {
        let user = UserId(self.fresh());
        self.manage(Manage::Register(Box::new(Registration {
            user,
            email: format!("{user}@example.com"),
            name: String::new(),
            password_hash: String::new(),
            org,
            org_name: "an org".to_owned(),
            plan: String::new(),
            workflow,
            workflow_name: "first".to_owned(),
            key: new_key(key, Some(workflow), None),
            session: Session {
                token_hash: [0; 32],
                user,
                expires_at: Millis(u64::MAX),
            },
        })));
    }

    /// Moves the clock to `at` and ends what is over by then.
    pub fn clock(&mut self, at: u64) {
        self.engine.advance(Millis(at));
        self.engine.expire(&mut self.batch).unwrap();
    }

    /// Moves the clock on.
    pub fn wait(&mut self, millis: u64) {
        self.clock(self.engine.now().0 + millis);
    }

    pub fn apply(&mut self, command: &Command) -> Outcome {
        let before = self.batch.count();
        let done = self.engine.apply(&self.published, command, &mut self.batch);
        let (outcome, _) = done.unwrap();
        self.lsn += u64::from(self.batch.count() - before);
        if self.engine.take_directory_changed() {
            self.publish();
        }
        outcome
    }

    /// Makes every change to the directory so far visible to decisions.
    pub fn publish(&mut self) {
        self.engine.stamp_directory(Lsn(self.lsn));
        self.published = self.engine.directory().clone();
    }

    /// What each record so far is, in order.
    pub fn records(&self, mut each: impl FnMut(&Record<'_>)) {
        for bytes in self.batch.records() {
            each(&postcard::from_bytes(bytes).unwrap());
        }
    }

    // --- calls -------------------------------------------------------------------------------

    /// An undeclared gate of protocol 4, without operation or tools, changed as told.
    pub fn ask(&mut self, change: impl FnOnce(&mut Ask)) -> Decision {
        let mut ask = Ask {
            endpoint: Endpoint::Gate,
            protocol: Protocol::V4,
            org: ORG,
            key: KEY,
            workflow: WORKFLOW,
            operation: None,
            operation_id: None,
            execution_id: None,
            trace_id: None,
            model: Some("small".to_owned()),
            tools: Vec::new(),
            digest: None,
            estimated_tokens: 0,
            max_output_tokens: None,
            chain_end: false,
            reservation: None,
            must_find_reservation: false,
            new_hold: HoldId(self.fresh()),
        };
        change(&mut ask);
        match self.apply(&Command::Ask(Box::new(ask))) {
            Outcome::Decision(decision) => *decision,
            other => panic!("{other:?}"),
        }
    }

    /// The hold of a call that must be allowed.
    pub fn allowed(&mut self, change: impl FnOnce(&mut Ask)) -> HoldId {
        match self.ask(change).verdict {
            Verdict::Allow {
                hold: Some(hold), ..
            } => hold,
            other => panic!("{other:?}"),
        }
    }

    /// The refusal of a call that must be refused.
    pub fn refused(&mut self, change: impl FnOnce(&mut Ask)) -> Block {
        match self.ask(change).verdict {
            Verdict::Block(block) => *block,
            other => panic!("{other:?}"),
        }
    }

    /// What a hold has left; none if it is not open.
    pub fn left(&self, hold: HoldId) -> Option<Nanos> {
        self.engine.shard().holds.get(hold).map(|hold| hold.left)
    }

    pub fn cancel(&mut self, org: OrgId, hold: HoldId) -> Option<Nanos> {
        match self.apply(&Command::Cancel {
            org,
            key: KEY,
            hold,
        }) {
            Outcome::Cancelled(released) => released,
            other => panic!("{other:?}"),
        }
    }

    // --- reports -----------------------------------------------------------------------------

    /// Reports one event of the desk's key; `small` tokens unless told otherwise.
    pub fn track(&mut self, change: impl FnOnce(&mut Reported)) -> Tracked {
        let event = event(change);
        self.track_all(vec![event]).remove(0)
    }

    pub fn track_all(&mut self, events: Vec<Reported>) -> Vec<Tracked> {
        let track = Track {
            org: ORG,
            key: KEY,
            events,
        };
        match self.apply(&Command::Track(Box::new(track))) {
            Outcome::Tracked(tracked) => tracked,
            other => panic!("{other:?}"),
        }
    }

    // --- operators ---------------------------------------------------------------------------

    pub fn manage(&mut self, manage: Manage) -> Outcome {
        self.apply(&Command::Manage(Box::new(manage)))
    }

    pub fn set_state(&mut self, to: Transition) -> Outcome {
        self.apply(&Command::SetState {
            org: ORG,
            workflow: WORKFLOW,
            to,
            reason: None,
            actor: Actor::System,
        })
    }

    pub fn cap_workflow(&mut self, budget: Option<Nanos>) {
        self.patch_workflow(WorkflowPatch {
            budget: Some(budget),
            ..WorkflowPatch::default()
        });
    }

    pub fn patch_workflow(&mut self, patch: WorkflowPatch) {
        let done = self.manage(Manage::PatchWorkflow {
            org: ORG,
            actor: Actor::System,
            id: WORKFLOW,
            patch,
        });
        assert!(matches!(done, Outcome::Workflow(_)), "{done:?}");
    }

    pub fn cap_org(&mut self, budget: Option<Nanos>) {
        self.patch_org(Some(budget), None);
    }

    pub fn most_restrictive(&mut self) {
        self.patch_org(None, Some(Composition::MostRestrictive));
    }

    fn patch_org(&mut self, budget: Option<Option<Nanos>>, composition: Option<Composition>) {
        self.manage(Manage::PatchOrg {
            org: ORG,
            actor: Actor::System,
            name: None,
            budget,
            composition,
        });
    }

    pub fn add_workflow(&mut self, budget: Option<Nanos>) -> WorkflowId {
        let id = WorkflowId(self.fresh());
        self.manage(Manage::CreateWorkflow {
            org: ORG,
            actor: Actor::System,
            id,
            settings: WorkflowSettings {
                name: format!("workflow {id}"),
                budget,
                ..WorkflowSettings::default()
            },
        });
        id
    }

    pub fn add_key(&mut self, workflow: Option<WorkflowId>, budget: Option<Nanos>) -> KeyId {
        let id = KeyId(self.fresh());
        self.manage(Manage::CreateKey {
            org: ORG,
            actor: Actor::System,
            key: new_key(id, workflow, budget),
        });
        id
    }

    /// A key of the workflow that works until `at`.
    pub fn add_key_until(&mut self, at: Millis) -> KeyId {
        let id = KeyId(self.fresh());
        let mut key = new_key(id, Some(WORKFLOW), None);
        key.expires_at = Some(at);
        self.manage(Manage::CreateKey {
            org: ORG,
            actor: Actor::System,
            key,
        });
        id
    }

    /// A policy of the org, changed as told.
    pub fn add_policy(
        &mut self,
        policy_type: PolicyType,
        terms: Terms,
        change: impl FnOnce(&mut PolicyDraft),
    ) -> PolicyId {
        let id = PolicyId(self.fresh());
        let mut draft = PolicyDraft {
            name: "a rule".to_owned(),
            policy_type,
            scope: Scope::Org,
            scope_id: None,
            priority: 100,
            action: PolicyAction::Block,
            terms,
            is_active: true,
        };
        change(&mut draft);
        let done = self.manage(Manage::CreatePolicy {
            org: ORG,
            actor: Actor::System,
            id,
            draft,
        });
        assert!(matches!(done, Outcome::Managed(_)), "{done:?}");
        id
    }

    pub fn workflow(&mut self) -> WorkflowView {
        match self.apply(&Command::ReadWorkflow {
            org: ORG,
            workflow: WORKFLOW,
        }) {
            Outcome::Workflow(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    pub fn org(&mut self, org: OrgId) -> OrgView {
        match self.apply(&Command::ReadOrg { org }) {
            Outcome::Org(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    /// Spent and held of the workflow in this period.
    pub fn books(&mut self) -> (Nanos, Nanos) {
        let view = self.workflow();
        (view.spent, view.held)
    }
}

pub fn event(change: impl FnOnce(&mut Reported)) -> Reported {
    let mut event = Reported {
        workflow: WORKFLOW,
        kind: "llm_call".to_owned(),
        model: Some("small".to_owned()),
        ..Reported::default()
    };
    change(&mut event);
    event
}

/// Input tokens of `small` that cost `n` tenths of a cent.
pub fn tenths(n: u64) -> Tokens {
    Tokens {
        total: n * 1000,
        input: n * 1000,
        ..Tokens::default()
    }
}

/// A request's identity: the name of the operation, and what the request says.
pub fn operation(endpoint: Endpoint, name: &str, says: u64) -> impl FnOnce(&mut Ask) + use<> {
    let name = name.to_owned();
    move |ask| {
        let mut key = u128::from(endpoint == Endpoint::Execute);
        for byte in name.bytes() {
            key = key << 8 | u128::from(byte);
        }
        ask.endpoint = endpoint;
        ask.operation_id = Some(name);
        ask.operation = Some(Operation {
            key,
            fingerprint: says,
        });
    }
}

pub fn tools(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn new_key(id: KeyId, workflow: Option<WorkflowId>, budget: Option<Nanos>) -> NewKey {
    let mut key_hash = [0; 32];
    key_hash[..16].copy_from_slice(&id.0.to_le_bytes());
    NewKey {
        id,
        workflow,
        name: "a key".to_owned(),
        key_hash,
        prefix: String::new(),
        suffix: String::new(),
        sealed_secret: Vec::new(),
        scopes: Scopes::ALL,
        budget,
        expires_at: None,
    }
}
