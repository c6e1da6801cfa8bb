//! How caps are written on the wire: periods, and how hard they are.

use crate::clock;
use engine::period::Period;
use persist::record::{Overdraft, PeriodKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How much of a limit is used, in whole percent, rounded down. Of nothing, everything is.
#[must_use]
pub fn percent(used: u64, limit: u64) -> u64 {
    let percent = (u128::from(used) * 100).checked_div(u128::from(limit));
    percent.map_or(100, |percent| u64::try_from(percent).unwrap_or(u64::MAX))
}

/// Over which time a cap counts.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BudgetPeriod)]
pub enum PeriodName {
    /// A day.
    Day,
    /// A week, from Monday.
    Week,
    /// A month.
    Month,
    /// Today and the 29 days before it.
    #[serde(rename = "rolling_30_days")]
    Rolling30,
    /// Since ever.
    Lifetime,
}

impl PeriodName {
    /// The name of a kind.
    #[must_use]
    pub const fn of(kind: PeriodKind) -> Self {
        match kind {
            PeriodKind::Day => Self::Day,
            PeriodKind::Week => Self::Week,
            PeriodKind::Month => Self::Month,
            PeriodKind::Rolling30 => Self::Rolling30,
            PeriodKind::Lifetime => Self::Lifetime,
        }
    }

    /// What it names.
    #[must_use]
    pub const fn kind(self) -> PeriodKind {
        match self {
            Self::Day => PeriodKind::Day,
            Self::Week => PeriodKind::Week,
            Self::Month => PeriodKind::Month,
            Self::Rolling30 => PeriodKind::Rolling30,
            Self::Lifetime => PeriodKind::Lifetime,
        }
    }
}

/// A period.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Period)]
pub struct Span {
    kind: PeriodName,
    /// Its first instant.
    #[schema(format = DateTime)]
    start: String,
    /// The first instant after it; null for a lifetime.
    #[schema(format = DateTime)]
    end: Option<String>,
}

impl Span {
    /// On the wire.
    #[must_use]
    pub fn of(period: &Period) -> Self {
        Self {
            kind: PeriodName::of(period.kind),
            start: clock::rfc3339(period.start()),
            end: period.end().map(clock::rfc3339),
        }
    }
}

/// Hard or soft.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = EnforcementMode)]
pub enum ModeName {
    /// Nothing goes beyond the cap.
    #[serde(alias = "hard")]
    Hard,
    /// Calls in a chain may go beyond it, as far as the overdraft reaches.
    #[serde(alias = "soft")]
    Soft,
}

impl ModeName {
    /// The mode of a cap.
    #[must_use]
    pub const fn of(overdraft: Option<Overdraft>) -> Self {
        match overdraft {
            Some(_) => Self::Soft,
            None => Self::Hard,
        }
    }
}
