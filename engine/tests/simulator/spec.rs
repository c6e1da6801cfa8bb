//! What `docs/semantics.md` says about money and time, worked out a second time: prices, periods,
//! the cost of an event, what calls usually cost, the size of a hold. Pure arithmetic, none of it
//! the engine's.

use engine::command::{Ask, Protocol};
use persist::record::{Endpoint, Overdraft, PeriodKind, Tokens};
use persist::{Day, Nanos};
use std::collections::BTreeMap;

pub const FLOOR: Nanos = Nanos::from_cents(1);
pub const HOLD_MILLIS: u64 = 300_000;
/// A chain is over after so much silence.
pub const IDLE_MILLIS: u64 = 300_000;
/// The most one call may hold.
pub const LARGEST: Nanos = Nanos(1_000_000_000_000_000);

/// The plan that limits calls, and how many it allows in a month. Other plans limit nothing.
pub const SMALL_PLAN: (&str, u64) = ("small", 60);

/// Model, and nano-dollars per million tokens of input, output, cache reads and reasoning.
pub const PRICES: [(&str, [u64; 4]); 2] = [
    (
        "small",
        [1_000_000_000, 4_000_000_000, 100_000_000, 4_000_000_000],
    ),
    ("odd", [333_333_337, 777_777_777, 33_333_331, 999_999_999]),
];
/// The same of a model nobody knows.
pub const PROVISIONAL: [u64; 4] = [7_000_000_000, 21_000_000_000, 700_000_001, 21_000_000_000];

/// The price file the engine under test reads.
pub fn price_file() -> String {
    let price = |[input, output, cache, reasoning]: [u64; 4]| {
        format!(
            "\"input\":{input},\"output\":{output},\"cache_read\":{cache},\"cache_write\":0,\
             \"reasoning\":{reasoning}"
        )
    };
    let models: Vec<_> = PRICES
        .iter()
        .map(|(name, figures)| {
            format!(
                "{{\"model\":\"{name}\",\"provider\":\"openai\",{}}}",
                price(*figures)
            )
        })
        .collect();
    format!(
        "{{\"source\":\"the simulator\",\"retrieved\":\"never\",\"provisional\":{{{}}},\
         \"models\":[{}]}}",
        price(PROVISIONAL),
        models.join(",")
    )
}

/// Days of `day`'s month before it: days of the Gregorian calendar, counted from March.
const fn of_month(day: Day) -> u32 {
    let of_era = (day.0 + 719_468) % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    of_year - (153 * ((5 * of_year + 2) / 153) + 2) / 5
}

/// The first day of the period around `today`: everything from there on counts.
pub const fn first_day(kind: PeriodKind, today: Day) -> Day {
    match kind {
        PeriodKind::Day => today,
        // 1 January 1970 was a Thursday.
        PeriodKind::Week => Day(today.0 - (today.0 + 3) % 7),
        PeriodKind::Month => Day(today.0 - of_month(today)),
        PeriodKind::Rolling30 => Day(today.0 - 29),
        PeriodKind::Lifetime => Day(0),
    }
}

/// The first day of the month after `day`'s.
pub const fn next_month(day: Day) -> Day {
    first_day(
        PeriodKind::Month,
        Day(first_day(PeriodKind::Month, day).0 + 32),
    )
}

/// What tokens cost: every part at its price, rounded once, half up. Cached tokens are inside the
/// input, reasoning is inside the output, and a total without its parts is input.
pub fn cost(model: Option<&str>, tokens: &Tokens) -> Nanos {
    let listed = PRICES.iter().find(|(name, _)| Some(*name) == model);
    let [input, output, cache, reasoning] = listed.map_or(PROVISIONAL, |(_, price)| *price);
    let prompt = if tokens.input + tokens.output == 0 {
        tokens.total
    } else {
        tokens.input
    };
    let part = |n: u64, price: u64| u128::from(n) * u128::from(price);
    let sum = part(prompt - tokens.cache_read, input)
        + part(tokens.cache_read, cache)
        + part(tokens.output - tokens.reasoning, output)
        + part(tokens.reasoning, reasoning);
    Nanos(((sum + 500_000) / 1_000_000) as i64)
}

/// Is the price of this model a guess?
pub fn is_provisional(model: Option<&str>) -> bool {
    PRICES.iter().all(|(name, _)| Some(*name) != model)
}

/// How far beyond a cap a chain may go: the lesser of what is set.
pub fn beyond(cap: Nanos, overdraft: Option<Overdraft>) -> Nanos {
    let Some(set) = overdraft else {
        return Nanos::ZERO;
    };
    let part = set
        .percent
        .map(|percent| Nanos(cap.0 * i64::from(percent) / 100));
    let least = set.amount.into_iter().chain(part).min();
    least.unwrap_or(Nanos::ZERO)
}

/// What the calls of a workflow usually cost, by model and for all together (`None`): a tiny copy of
/// the estimator, fed by the same charges in the order of the log.
#[derive(Debug, Clone, Default)]
pub struct Usual(BTreeMap<Option<String>, i64>);

impl Usual {
    pub fn learn(&mut self, model: Option<&str>, cost: Nanos) {
        let named = model.map(|model| Some(model.to_owned()));
        for name in std::iter::once(None).chain(named) {
            self.0
                .entry(name)
                .and_modify(|known| {
                    let step = (*known / 64).max(10_000);
                    *known += (cost.0 - *known).clamp(-step, 9 * step);
                })
                .or_insert(cost.0);
        }
    }

    /// What a call that declares nothing asks for.
    fn size(&self, model: Option<&str>) -> Nanos {
        let known = self.0.get(&model.map(str::to_owned));
        known.map_or(FLOOR, |known| FLOOR.max(Nanos(*known)))
    }
}

/// What stands against a call.
#[derive(Debug, Default)]
pub struct Bounds {
    /// The cap on one call.
    pub per_call: Option<Nanos>,
    /// What its chain has left.
    pub chain: Option<Nanos>,
    /// What each cap has left.
    pub left: Vec<Nanos>,
}

/// What a call asks for.
#[derive(Debug)]
pub struct Size {
    /// What is held if it is allowed.
    pub hold: Nanos,
    /// What must be free for it.
    pub needed: Nanos,
    /// May it pass?
    pub fits: bool,
    /// Does something stop it that is no cap on a sum: the size of one call, or its chain?
    pub stopped: bool,
}

/// Sizes a call: declared, or what such calls usually cost (or what is left of that), or nothing for
/// a client that cannot end a hold.
pub fn size(ask: &Ask, usual: &Usual, bounds: &Bounds) -> Size {
    let most = bounds.per_call.unwrap_or(Nanos::MAX);
    let declared = ask.estimated_tokens > 1 || ask.max_output_tokens.is_some();
    let cannot_end = match ask.protocol {
        Protocol::Seed => true,
        Protocol::V3 => ask.endpoint == Endpoint::Execute,
        Protocol::V4 => false,
    };
    let (hold, needed) = if declared {
        let tokens = Tokens {
            input: ask.estimated_tokens & !u64::from(ask.estimated_tokens == 1),
            output: ask.max_output_tokens.unwrap_or(0),
            ..Tokens::default()
        };
        let cost = cost(ask.model.as_deref(), &tokens);
        (cost, cost)
    } else if cannot_end {
        (Nanos::ZERO, FLOOR)
    } else {
        let left = bounds.left.iter().copied().chain(bounds.chain).min();
        let left = left.unwrap_or(Nanos::MAX).max(Nanos(1));
        let amount = usual.size(ask.model.as_deref()).min(most).min(left);
        (amount, amount)
    };
    let fits = |left: &Nanos| left.is_positive() && needed <= *left;
    let stopped =
        hold > most || !most.is_positive() || hold > LARGEST || !bounds.chain.iter().all(fits);
    Size {
        hold,
        needed,
        fits: !stopped && bounds.left.iter().all(fits),
        stopped,
    }
}
