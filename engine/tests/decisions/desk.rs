//! A desk to ask an engine at: one org with a workflow and a key, a clock that is moved by hand, and
//! every record kept. A change to the directory is durable as soon as it is made.

#[path = "desk/operators.rs"]
mod operators;
#[path = "desk/values.rs"]
mod values;

pub use operators::draft;
pub use values::{ask, at, chain, event, in_chain, new_key, operation, tenths, tools};

use engine::command::{
    Ask, Block, Command, Decision, Outcome, Reported, Track, Tracked, Verdict, When,
};
use engine::directory::Directory;
use engine::manage::{Manage, NewSession, Registration};
use engine::plan::{Plan, PlanTable};
use engine::price::PriceTable;
use engine::shard::OpenHold;
use engine::{Engine, Settings};
use persist::group_commit::Batch;
use persist::record::Record;
use persist::{HoldId, KeyId, Lsn, Millis, Nanos, OrgId, SessionId, UserId, WorkflowId};
use std::sync::Arc;

pub const ORG: OrgId = OrgId(1);
pub const WORKFLOW: WorkflowId = WorkflowId(2);
pub const KEY: KeyId = KeyId(3);
/// Noon of 15 June 2026.
pub const NOON: u64 = 1_781_524_800_000;

/// `small` costs 1,000 nano-dollars per input token and 4,000 per output token.
pub const PRICES: &str = r#"{"source":"a test","retrieved":"never",
 "provisional":{"input":9000000000,"output":9000000000,"cache_read":9000000000,
                "cache_write":9000000000,"reasoning":9000000000},
 "models":[{"model":"small","provider":"openai","input":1000000000,"output":4000000000,
            "cache_read":100000000,"cache_write":1000000000,"reasoning":4000000000}]}"#;

/// Few, so that generations of events are sealed and forgotten.
pub const DEDUP_KEYS: usize = 80;

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
    /// At an engine of several shards: how many there are must not show.
    pub fn new() -> Self {
        Self::with(Settings {
            shards: 4,
            dedup_keys: DEDUP_KEYS,
            ..Settings::default()
        })
    }

    pub fn with(settings: Settings) -> Self {
        let prices = Arc::new(PriceTable::from_json(PRICES).unwrap());
        Self::at(Engine::new(prices, settings))
    }

    /// Whose org has a plan.
    pub fn under(plan: Plan) -> Self {
        Self::of_plans(vec![plan])
    }

    /// Whose org has the plan without a name, if there is one, and no limits otherwise.
    pub fn of_plans(plans: Vec<Plan>) -> Self {
        let prices = Arc::new(PriceTable::from_json(PRICES).unwrap());
        let settings = Settings {
            shards: 4,
            ..Settings::default()
        };
        let plans = PlanTable::new(plans, String::new());
        Self::at(Engine::new(prices, settings).with_plans(Arc::new(plans)))
    }

    fn at(engine: Engine) -> Self {
        let mut desk = Self {
            engine,
            published: Directory::default(),
            batch: Batch::default(),
            serial: 1000,
            lsn: 0,
        };
        desk.clock(NOON);
        desk.sign_up(ORG, WORKFLOW, KEY);
        desk
    }

    /// The same desk at another engine, with a log that begins anew.
    pub fn beside(&self, engine: Engine) -> Self {
        let published = engine.directory().cloned().unwrap();
        Self {
            engine,
            published,
            batch: Batch::default(),
            serial: self.serial,
            lsn: self.lsn,
        }
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
            identity: None,
            org,
            org_name: "an org".to_owned(),
            plan: String::new(),
            workflow,
            workflow_name: "first".to_owned(),
            key: new_key(key, Some(workflow), None),
            session: NewSession {
                id: SessionId(0),
                token_hash: [0; 32],
                ip: String::new(),
                user_agent: String::new(),
                user,
                expires_at: Millis(u64::MAX),
            },
        })));
    }

    /// Moves the clock to `at` and ends what is over by then.
    pub fn clock(&mut self, at: u64) {
        self.engine.advance(Millis(at));
        self.engine
            .expire(&self.published, &mut self.batch)
            .unwrap();
    }

    /// Moves the clock on.
    pub fn wait(&mut self, millis: u64) {
        self.clock(self.engine.now().0 + millis);
    }

    pub fn apply(&mut self, command: &Command) -> Outcome {
        let (outcome, when) = self.try_apply(command);
        assert_ne!(when, When::Again, "there is no other pump");
        assert_ne!(when, When::Later, "nothing is left to end");
        outcome
    }

    fn try_apply(&mut self, command: &Command) -> (Outcome, When) {
        let before = self.batch.count();
        let done = self
            .engine
            .apply(&self.published, command, 0, &mut self.batch);
        let done = done.unwrap();
        self.lsn += u64::from(self.batch.count() - before);
        if self.engine.take_directory_changed() {
            self.publish();
        }
        done
    }

    /// Makes every change to the directory so far visible to decisions.
    pub fn publish(&mut self) {
        self.engine.stamp_directory(Lsn(self.lsn));
        self.published = self.engine.directory().cloned().unwrap();
    }

    /// What each record so far is, in order.
    pub fn records(&self, mut each: impl FnMut(&Record<'_>)) {
        for bytes in self.batch.records() {
            each(&postcard::from_bytes(bytes).unwrap());
        }
    }

    /// How many records there are.
    pub const fn count(&self) -> u64 {
        self.lsn
    }

    // --- calls -------------------------------------------------------------------------------

    /// An undeclared gate of protocol 4, without operation or tools, changed as told.
    pub fn ask(&mut self, change: impl FnOnce(&mut Ask)) -> Decision {
        let (decision, when) = self.try_ask(change);
        assert!(!matches!(when, When::Again | When::Later), "{when:?}");
        decision
    }

    /// The same, and when the answer may leave.
    pub fn try_ask(&mut self, change: impl FnOnce(&mut Ask)) -> (Decision, When) {
        let mut ask = values::ask();
        change(&mut ask);
        ask.model_lower = ask.model.as_deref().map(str::to_lowercase);
        ask.tools_line = ask.tools.join("\n");
        let (slot, random) = (ask.workflow.slot(ask.org), self.fresh() as u64);
        ask.new_hold = HoldId::mint(self.engine.now(), slot, random);
        match self.try_apply(&Command::Ask(Box::new(ask))) {
            (Outcome::Decision(decision), when) => (decision, when),
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
        self.hold(hold).map(|hold| hold.left)
    }

    /// A hold, if it is open.
    pub fn hold(&self, hold: HoldId) -> Option<OpenHold> {
        self.engine.part(hold.slot()).unwrap().hold(hold)
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
            Outcome::Tracked(tracked) => tracked.into_iter().map(Option::unwrap).collect(),
            other => panic!("{other:?}"),
        }
    }
}
