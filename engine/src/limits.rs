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
/// Policies in one org.
pub const POLICIES: usize = 1000;
/// Bytes of the name of a policy or a key.
pub const POLICY_NAME_BYTES: usize = 80;
/// Bytes of a workflow's name.
pub const WORKFLOW_NAME_BYTES: usize = 255;
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
/// Milliseconds a hold lives unless it is ended before.
pub const HOLD_MILLIS: u64 = 300_000;
/// Seconds ahead that the expiry wheel can hold.
pub const WHEEL_SECS: u64 = 4096;
/// Sessions live seven days.
pub const SESSION_MILLIS: u64 = 7 * 24 * 3_600_000;

const _: () = assert!(HOLD.0 < HELD.0);
const _: () = assert!(HOLD_MILLIS / 1000 < WHEEL_SECS);
const _: () = assert!(BUDGET_CENTS <= i64::MAX / persist::Nanos::PER_CENT);
