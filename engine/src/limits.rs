//! Every bound in one place. A value past its bound is refused with the bound in the message, or
//! cut where it is only kept for history.

/// Bytes of a client's id (operation, execution, trace, span, event).
pub const ID_BYTES: usize = 128;
/// Bytes of a tool's or a model's name.
pub const NAME_BYTES: usize = 256;
/// Tools in one request.
pub const TOOLS: usize = 128;
/// Bytes of one tool or model pattern.
pub const PATTERN_BYTES: usize = 4096;
/// Patterns in one policy, alternatives (`a|b`) counted singly.
pub const PATTERNS: usize = 256;
/// Bytes of all patterns of one policy: a policy is one record.
pub const POLICY_PATTERN_BYTES: usize = 16 << 10;
/// Patterns in all policies of an org: every call may be compared with each of them, and all orgs
/// share the thread that does it.
pub const ORG_PATTERNS: usize = 2000;
/// Organizations that one person may belong to.
pub const ORGS_PER_PERSON: usize = 100;
/// Invitations of one org that nobody has answered. Those whose time is over make room.
pub const INVITES: usize = 1000;
/// Policies in one org.
pub const POLICIES: usize = 1000;
/// Policies in one org that only flag or stand in the shadow: each may be noted with every call.
pub const OBSERVERS: usize = 50;
/// Bytes of the name of a policy or a key.
pub const POLICY_NAME_BYTES: usize = 80;
/// Bytes of a workflow's name.
pub const WORKFLOW_NAME_BYTES: usize = 255;
/// Bytes of a person's name.
pub const PERSON_NAME_BYTES: usize = 255;
/// Bytes of an org's name.
pub const ORG_NAME_BYTES: usize = 100;
/// Bytes of a workflow's `external_id`.
pub const EXTERNAL_ID_BYTES: usize = 64;
/// Bytes of an operator's reason.
pub const REASON_BYTES: usize = 500;
/// Bytes of an e-mail address.
pub const EMAIL_BYTES: usize = 254;
/// Bytes of a password.
pub const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 12..=256;
/// Bytes of a description.
pub const DESCRIPTION_BYTES: usize = 2000;
/// The dearest rate, in nano-dollars per million tokens: ten thousand dollars.
pub const RATE: persist::Nanos = persist::Nanos(10_000_000_000_000);
/// The largest budget, in cents: 10 million dollars short of what nanos can count.
pub const BUDGET_CENTS: i64 = 900_000_000_000;
/// The most calls per minute a rate policy may allow.
pub const CALLS_PER_MINUTE: u32 = 1_000_000;
/// Tokens of one kind in one event or request.
pub const TOKENS: u64 = 1_000_000_000_000;
/// The most one call may hold, a million dollars.
pub const HOLD: persist::Nanos = persist::Nanos(1_000_000_000_000_000);
/// The most that may be held at once in one workflow, key or org: sums of holds stay exact, far from
/// where money saturates.
pub const HELD: persist::Nanos = persist::Nanos(i64::MAX / 4);
/// Models of one workflow whose usual cost is learned; further ones hold the floor.
pub const LEARNED_MODELS: usize = 32;
/// A chain is over when nothing came for this many milliseconds.
pub const CHAIN_IDLE_MILLIS: u64 = 300_000;
/// How long a chain may last, in seconds, if nobody says otherwise, and what may be said.
pub const CHAIN_SECS: u32 = 3600;
/// Seconds that may be said.
pub const CHAIN_SECS_RANGE: std::ops::RangeInclusive<u32> = 1..=604_800;
/// LoopDetection: calls of one tool, and within how many seconds, if the policy does not say.
pub const LOOP_THRESHOLD: u32 = 6;
/// Seconds of the window.
pub const LOOP_WINDOW_SECS: u32 = 60;
/// What a LoopDetection policy may say: calls.
pub const LOOP_THRESHOLD_RANGE: std::ops::RangeInclusive<u32> = 2..=1000;
/// What it may say: seconds.
pub const LOOP_WINDOW_RANGE: std::ops::RangeInclusive<u32> = 1..=3600;
/// Percent of a cap that an overdraft may reach.
pub const OVERDRAFT_PERCENT: u32 = 1000;
/// Milliseconds a hold lives unless it is ended before.
pub const HOLD_MILLIS: u64 = 300_000;
/// Seconds ahead that the expiry wheel can hold.
pub const WHEEL_SECS: u64 = 4096;
/// Sessions live seven days.
pub const SESSION_MILLIS: u64 = 7 * 24 * 3_600_000;
/// Sessions that a person has open at once: the oldest ends when another opens.
pub const SESSIONS: usize = 100;
/// Mailed links of one kind that work at once for a person: the oldest ends when another is mailed.
/// More than one, or whoever asks for mails to an address makes the one its owner is reading useless.
pub const LINKS: usize = 5;
/// Milliseconds in which a mailed link to set another password works.
pub const RESET_MILLIS: u64 = 3_600_000;
/// Milliseconds in which a mailed link to verify an address works.
pub const VERIFY_MILLIS: u64 = 24 * 3_600_000;
/// Milliseconds in which an invitation can be accepted.
pub const INVITE_MILLIS: u64 = 7 * 24 * 3_600_000;

const _: () = assert!(HOLD.0 < HELD.0);
const _: () = assert!(HOLD_MILLIS / 1000 < WHEEL_SECS);
const _: () = assert!(BUDGET_CENTS <= i64::MAX / persist::Nanos::PER_CENT);

/// Workflows that find room in the tables of an engine, in all its shards together, before one grows.
pub const ROOM_WORKFLOWS: usize = 16_384;

/// The same for open holds.
pub const ROOM_HOLDS: usize = 65_536;
