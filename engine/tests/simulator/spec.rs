//! What `docs/semantics.md` says about money and time, worked out a second time: prices, months,
//! the cost of an event, the size of a hold. Pure arithmetic, none of it the engine's.

use super::books::Workflow;
use engine::command::{Ask, Protocol};
use persist::record::{Arithmetic, Endpoint, Tokens};
use persist::{Millis, Nanos};

pub const FLOOR: Nanos = Nanos::from_cents(1);
pub const HOLD_MILLIS: u64 = 300_000;

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

/// First instant of the month around `at`: days of the Gregorian calendar, counted from March.
pub const fn month(at: Millis) -> Millis {
    const DAY: u64 = 86_400_000;
    let days = at.0 / DAY;
    let of_era = (days + 719_468) % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let of_month = of_year - (153 * ((5 * of_year + 2) / 153) + 2) / 5;
    Millis((days - of_month) * DAY)
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
    let sum = (prompt - tokens.cache_read) * input
        + tokens.cache_read * cache
        + (tokens.output - tokens.reasoning) * output
        + tokens.reasoning * reasoning;
    Nanos(((sum + 500_000) / 1_000_000) as i64)
}

/// Is the price of this model a guess?
pub fn is_provisional(model: Option<&str>) -> bool {
    PRICES.iter().all(|(name, _)| Some(*name) != model)
}

/// What a cap leaves.
pub const fn left(cap: &Arithmetic) -> Nanos {
    Nanos(cap.cap.0 - cap.spent.0 - cap.held.0)
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
    /// Does the cap on one call stop it?
    pub over_per_call: bool,
}

/// Sizes a call: declared, or unknown (a cent, or what is left of it), or nothing for a client that
/// cannot end a hold.
pub fn size(ask: &Ask, workflow: Option<&Workflow>, caps: &[Arithmetic]) -> Size {
    let most = workflow.and_then(|w| w.per_call).unwrap_or(Nanos::MAX);
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
        let least = caps.iter().map(left).min().unwrap_or(Nanos::MAX);
        let amount = FLOOR.min(most).min(least.max(Nanos(1)));
        (amount, amount)
    };
    let over_per_call = hold > most || !most.is_positive();
    let fits = |cap: &Arithmetic| left(cap).is_positive() && needed <= left(cap);
    Size {
        hold,
        needed,
        fits: !over_per_call && caps.iter().all(fits),
        over_per_call,
    }
}
