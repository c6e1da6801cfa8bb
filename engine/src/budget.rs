//! Money: what a call asks for, which caps apply to it, and whether it fits under all of them.

use crate::account::Sums;
use crate::cell::Limit;
use crate::chain::Chain;
use crate::code::Code;
use crate::command::{Ask, Block, Protocol};
use crate::decide::{Context, Limits};
use crate::directory::{OrgEntry, WorkflowEntry};
use crate::limits;
use crate::money::Dollars;
use crate::period::Period;
use crate::rules::{Compiled, Described, SCOPES};
use crate::shard::WorkflowLive;
use crate::shared::Shared;
use persist::record::{Arithmetic, Endpoint, Overdraft, PeriodKind, Scope};
use persist::{Day, Nanos};
use smallvec::SmallVec;
use std::sync::Arc;

/// How much a call asks for, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The client said; it must fit.
    Declared(Nanos),
    /// Unknown: what such calls usually cost, or what is left of that.
    UpTo(Nanos),
    /// The client cannot end a hold: nothing is held, but this much must be free.
    NothingIf(Nanos),
}

impl Size {
    /// The figure in it.
    #[must_use]
    pub const fn amount(self) -> Nanos {
        match self {
            Self::Declared(amount) | Self::UpTo(amount) | Self::NothingIf(amount) => amount,
        }
    }
}

/// One cap, with what is already taken from it.
#[derive(Debug)]
pub struct Cap<'a> {
    figures: Arithmetic,
    /// First day of its period, and of the next one.
    first: Day,
    next: Option<Day>,
    policy: Option<&'a Arc<Compiled>>,
    /// What this pump released since its last append: free for itself alone.
    released: Nanos,
}

/// The caps of one call.
pub type Caps<'a> = SmallVec<[Cap<'a>; 6]>;

impl Cap<'_> {
    /// What it leaves.
    #[must_use]
    pub fn remaining(&self) -> Nanos {
        self.figures.cap + self.figures.overdraft - self.figures.spent - self.figures.held
    }

    /// Does it refuse a call of that size, whatever other caps say? One that is used up lets nothing
    /// through, not even a call declared to be free; while anything is left, a call of unknown size
    /// takes no more than that.
    #[must_use]
    pub fn refuses(&self, size: Size) -> bool {
        let left = self.remaining();
        left <= Nanos::ZERO
            || match size {
                Size::Declared(needed) | Size::NothingIf(needed) => needed > left,
                Size::UpTo(_) => false,
            }
    }

    /// The policy that sets it.
    #[must_use]
    pub const fn policy(&self) -> Option<&Arc<Compiled>> {
        self.policy
    }

    /// Its figures with what a call asks for.
    #[must_use]
    pub const fn asking(&self, asked: Nanos) -> Arithmetic {
        Arithmetic {
            asked,
            ..self.figures
        }
    }
}

/// How much a call asks for.
#[must_use]
pub fn size(context: &Context<'_>, live: Option<&WorkflowLive>, ask: &Ask) -> Size {
    if let Some(cost) = ask.figures.as_ref().and_then(|figures| figures.cost) {
        return Size::Declared(cost);
    }
    let input = if ask.estimated_tokens > 1 {
        ask.estimated_tokens
    } else {
        0
    };
    if input > 0 || ask.max_output_tokens.is_some() {
        let quote = context.quote(ask.model.as_deref(), None);
        return Size::Declared(quote.declared(input, ask.max_output_tokens.unwrap_or(0)));
    }
    let cannot_end = match (ask.protocol, ask.endpoint) {
        (Protocol::Seed, _) | (Protocol::V3, Endpoint::Execute) => true,
        (Protocol::V3 | Protocol::V4, _) => false,
    };
    if cannot_end {
        return Size::NothingIf(context.floor);
    }
    let learned = live.and_then(|live| live.learned.size(ask.model_lower.as_deref()));
    Size::UpTo(learned.map_or(context.floor, |learned| learned.max(context.floor)))
}

/// One cap that somebody set.
struct Setting<'a> {
    cap: Nanos,
    period: PeriodKind,
    overdraft: Option<Overdraft>,
    policy: Option<&'a Arc<Compiled>>,
}

impl<'a> Setting<'a> {
    fn of(cap: Nanos, policy: &'a Arc<Compiled>) -> Self {
        Self {
            cap,
            period: policy.period,
            overdraft: policy.overdraft,
            policy: Some(policy),
        }
    }
}

/// Every cap that applies: those set on org, workflow and key, and those of budget policies.
#[must_use]
pub fn caps<'a>(
    context: &Context<'a>,
    org: &'a OrgEntry,
    workflow: &WorkflowEntry,
    live: Option<&WorkflowLive>,
    ask: &Ask,
    call: &Described<'_>,
) -> Caps<'a> {
    let key = context.directory.key(ask.key);
    let purses = Purses::new(context, org, live, ask);
    let mut caps = Caps::new();
    for scope in SCOPES {
        let own = match scope {
            Scope::Org => org.budget.map(|cap| (cap, org.period)),
            Scope::Workflow => workflow.budget().map(|cap| (cap, workflow.period)),
            Scope::ApiKey => key.and_then(|key| key.budget.map(|cap| (cap, key.period))),
        };
        if let Some((cap, period)) = own {
            let overdraft = workflow
                .rare()
                .overdraft
                .filter(|_| scope == Scope::Workflow);
            caps.push(purses.cap(
                scope,
                Setting {
                    cap,
                    period,
                    overdraft,
                    policy: None,
                },
            ));
        }
        for (cap, policy) in org.rules.budgets(org.composition, scope, call) {
            caps.push(purses.cap(scope, Setting::of(cap, policy)));
        }
    }
    caps
}

/// The cap that a budget policy sets, whether it is in force or not.
#[must_use]
pub fn cap_of<'a>(
    context: &Context<'a>,
    org: &'a OrgEntry,
    live: Option<&WorkflowLive>,
    ask: &Ask,
    policy: &'a Arc<Compiled>,
) -> Option<Cap<'a>> {
    let purses = Purses::new(context, org, live, ask);
    let cap = policy.budget?;
    Some(purses.cap(policy.scope, Setting::of(cap, policy)))
}

/// Where to look up what is taken from a call's caps.
struct Purses<'b, 'a> {
    context: &'b Context<'a>,
    org: &'a OrgEntry,
    key: Option<&'a Arc<Shared>>,
    live: Option<&'b WorkflowLive>,
    ask: &'b Ask,
}

impl<'b, 'a> Purses<'b, 'a> {
    fn new(
        context: &'b Context<'a>,
        org: &'a OrgEntry,
        live: Option<&'b WorkflowLive>,
        ask: &'b Ask,
    ) -> Self {
        let key = context.directory.key(ask.key);
        Self {
            context,
            org,
            key: key.and_then(|key| key.shared.as_ref()),
            live,
            ask,
        }
    }

    /// What is taken in a scope since a day, and what of it this pump has released meanwhile.
    fn taken(&self, scope: Scope, first: Day) -> (Sums, Nanos) {
        let context = self.context;
        let shared = match scope {
            Scope::Org => Some(&self.org.shared),
            Scope::Workflow => None,
            Scope::ApiKey => self.key,
        };
        match (shared, scope) {
            (Some(shared), _) => context.pending.sums(shared, first),
            (None, Scope::ApiKey) => {
                let payer = context.shard.payer(self.ask.workflow, self.ask.key);
                let sums = payer.map(|account| account.since(first));
                (sums.unwrap_or_default(), Nanos::ZERO)
            }
            (None, _) => {
                let sums = self.live.map(|live| live.account.since(first));
                (sums.unwrap_or_default(), Nanos::ZERO)
            }
        }
    }

    fn cap(&self, scope: Scope, setting: Setting<'a>) -> Cap<'a> {
        let in_chain = self.ask.chain.is_some();
        let period = self.context.calendar.period(setting.period);
        let (Sums { spent, held }, released) = self.taken(scope, period.first);
        let figures = Arithmetic {
            scope,
            period: setting.period,
            cap: setting.cap,
            overdraft: setting
                .overdraft
                .filter(|_| in_chain)
                .map_or(Nanos::ZERO, |overdraft| beyond(setting.cap, overdraft)),
            spent,
            held,
            asked: Nanos::ZERO,
        };
        Cap {
            figures,
            first: period.first,
            next: period.next,
            policy: setting.policy,
            released,
        }
    }
}

/// How far beyond a cap a chain may go.
fn beyond(cap: Nanos, overdraft: Overdraft) -> Nanos {
    let percent = overdraft.percent.map(|percent| {
        let part = i128::from(cap.0) * i128::from(percent) / 100;
        Nanos(i64::try_from(part).unwrap_or(i64::MAX))
    });
    let least = [overdraft.amount, percent].into_iter().flatten().min();
    least.unwrap_or(Nanos::ZERO).max(Nanos::ZERO)
}

/// The limits of one scope, for its shared cell.
#[must_use]
pub fn limits(caps: &[Cap<'_>], scope: Scope) -> Limits {
    caps.iter()
        .filter(|cap| cap.figures.scope == scope)
        .map(|cap| Limit {
            first: cap.first,
            most: cap.figures.cap + cap.figures.overdraft + cap.released,
        })
        .collect()
}

/// Are the shared figures of this call at rest, as far as other pumps go? Equal answers before and
/// after reading them mean that nothing moved.
#[must_use]
pub fn rest(context: &Context<'_>, org: &OrgEntry, ask: &Ask) -> Option<(u32, u32)> {
    let at_rest = |shared: &Arc<Shared>| shared.money.moving().at_rest(context.pending.own(shared));
    let key = context.directory.key(ask.key);
    let key = key.and_then(|key| key.shared.as_ref());
    Some((at_rest(&org.shared)?, key.map_or(Some(0), at_rest)?))
}

/// The amount to hold, such that `spent + held + ask ≤ cap + overdraft` for every cap (invariant 1).
pub fn reserve(
    context: &Context<'_>,
    workflow: &WorkflowEntry,
    live: Option<&WorkflowLive>,
    ask: &Ask,
    caps: &[Cap<'_>],
    size: Size,
) -> Result<Nanos, Block> {
    let least = caps.iter().map(Cap::remaining).min();
    let per_call = workflow.rare().max_per_call;
    let chain = ask.chain.as_ref();
    let of_chain = chain.and_then(|asked| {
        let live = context.shard.chain(asked.key);
        let own = live.map_or(asked.cap, |chain| chain.cap);
        let cap = [own, workflow.rare().chain_cap]
            .into_iter()
            .flatten()
            .min()?;
        let taken = live.map_or(Sums::default(), |chain: &Chain| chain.sums);
        Some((cap, taken))
    });
    let chain_left = of_chain.map(|(cap, sums)| cap - sums.taken());
    let (hold, needed) = match size {
        Size::Declared(amount) => (amount, amount),
        Size::NothingIf(floor) => (Nanos::ZERO, floor),
        // Never more than what is left while anything is left: no phantom refusal of the last cents.
        Size::UpTo(usual) => {
            let usual = per_call.map_or(usual, |most| usual.min(most));
            let left = [least, chain_left].into_iter().flatten().min();
            let amount = left.map_or(usual, |left| usual.min(left.max(Nanos(1))));
            (amount, amount)
        }
    };
    if let Some(most) = per_call.filter(|most| hold > *most || *most <= Nanos::ZERO) {
        let why = format!(
            "budget of one call: it may cost {}, and the workflow allows {} per call",
            Dollars(needed),
            Dollars(most)
        );
        return Err(Block {
            reason: "per_call_cap",
            ..Block::new(Code::BudgetHardBlocked, &why)
        });
    }
    if let Some((cap, sums)) = of_chain
        && let Some(left) = chain_left
        && (left <= Nanos::ZERO || needed > left)
    {
        let why = format!(
            "budget of the chain exhausted: of {}, {} is spent and {} held, and the call asks for \
             {}; end the chain and start another",
            Dollars(cap),
            Dollars(sums.spent),
            Dollars(sums.held),
            Dollars(needed)
        );
        return Err(Block {
            reason: "chain_cap",
            ..Block::new(Code::BudgetHardBlocked, &why)
        });
    }
    sum_refusal(context, live, ask, hold)?;
    if let Some(cap) = caps.iter().find(|cap| cap.refuses(size)) {
        return Err(budget_refusal(context, cap, needed));
    }
    Ok(hold)
}

/// Without any cap there still is an end: sums of holds must stay exact.
fn sum_refusal(
    context: &Context<'_>,
    live: Option<&WorkflowLive>,
    ask: &Ask,
    hold: Nanos,
) -> Result<(), Block> {
    let org = context.directory.org(ask.org);
    // The org's sum bounds that of its workflows and keys; the workflow's catches what an org with
    // a cell of another process life would not.
    let held = [
        org.map(|org| org.shared.money.since(Day(0)).held),
        live.map(|live| live.account.since(Day(0)).held),
    ]
    .into_iter()
    .flatten()
    .max()
    .unwrap_or_default();
    if hold <= limits::HOLD && held + hold <= limits::HELD {
        return Ok(());
    }
    let why = format!(
        "budget of one call: {} is more than one call may hold ({}), or more than fits beside the {} \
         held already; declare fewer tokens",
        Dollars(hold),
        Dollars(limits::HOLD),
        Dollars(held)
    );
    Err(Block {
        reason: "hold_too_large",
        ..Block::new(Code::BudgetHardBlocked, &why)
    })
}

/// The words for a period in a sentence.
const fn over(kind: PeriodKind) -> &'static str {
    match kind {
        PeriodKind::Day => "today",
        PeriodKind::Week => "this week",
        PeriodKind::Month => "this month",
        PeriodKind::Rolling30 => "in the last 30 days",
        PeriodKind::Lifetime => "in all",
    }
}

fn budget_refusal(context: &Context<'_>, cap: &Cap<'_>, asked: Nanos) -> Block {
    let figures = cap.asking(asked);
    let code = match figures.scope {
        Scope::Org => Code::BudgetOrgCeilingBlocked,
        Scope::Workflow | Scope::ApiKey => Code::BudgetHardBlocked,
    };
    let by = cap
        .policy
        .map(|policy| format!(" (policy \"{}\")", policy.name))
        .unwrap_or_default();
    let overdraft = if figures.overdraft.is_positive() {
        format!(" and an overdraft of {}", Dollars(figures.overdraft))
    } else {
        String::new()
    };
    let why = format!(
        "budget of the {} exhausted{by}: of {}{overdraft} {}, {} is spent and {} held, and the call \
         asks for {}",
        crate::pace::noun(figures.scope),
        Dollars(figures.cap),
        over(figures.period),
        Dollars(figures.spent),
        Dollars(figures.held),
        Dollars(asked)
    );
    let period: Period = context.calendar.period(figures.period);
    debug_assert_eq!(period.next, cap.next, "a cap's period is the calendar's");
    Block {
        reason: "budget",
        policy: cap.policy.cloned(),
        budget: Some(figures),
        resets_at: period.end(),
        ..Block::new(code, &why)
    }
}
