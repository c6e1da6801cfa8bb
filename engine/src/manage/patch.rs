//! What a request says of settings that hang together. It is folded on what there is when the change
//! is made, not when the request came in: of two people who change different parts, both are heard.

use super::Refusal;
use super::check::invalid;
use crate::limits;
use persist::Nanos;
use persist::record::{LoopWatch, Overdraft};

/// How hard a cap is; absent stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct OverdraftPatch {
    /// Soft, or hard.
    pub soft: Option<bool>,
    /// How far calls in a chain may go beyond it; `Some(None)` takes that off.
    pub amount: Option<Option<Nanos>>,
    /// The same in percent of the cap.
    pub percent: Option<Option<u32>>,
}

impl OverdraftPatch {
    /// Says all there is to say.
    #[must_use]
    pub fn to(overdraft: Option<Overdraft>) -> Self {
        Self {
            soft: Some(overdraft.is_some()),
            amount: Some(overdraft.and_then(|overdraft| overdraft.amount)),
            percent: Some(overdraft.and_then(|overdraft| overdraft.percent)),
        }
    }

    /// What there is after it.
    pub fn of(self, before: Option<Overdraft>) -> Result<Option<Overdraft>, Refusal> {
        if self.soft.unwrap_or(before.is_some()) {
            let before = before.unwrap_or_default();
            return Ok(Some(Overdraft {
                amount: self.amount.unwrap_or(before.amount),
                percent: self.percent.unwrap_or(before.percent),
            }));
        }
        if self.amount.flatten().is_some() || self.percent.flatten().is_some() {
            return Err(invalid(
                "enforcement_mode",
                "an overdraft needs enforcement_mode \"Soft\"".to_owned(),
            ));
        }
        Ok(None)
    }
}

/// A workflow's own watch for the same tool again and again; absent stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchPatch {
    /// Calls of one tool; `Some(None)` takes the watch off.
    pub threshold: Option<Option<u32>>,
    /// Within so many seconds.
    pub window_secs: Option<u32>,
}

impl WatchPatch {
    /// Says all there is to say.
    #[must_use]
    pub fn to(watch: Option<LoopWatch>) -> Self {
        Self {
            threshold: Some(watch.map(|watch| watch.threshold)),
            window_secs: watch.map(|watch| watch.window_secs),
        }
    }

    /// What there is after it.
    pub fn of(self, before: Option<LoopWatch>) -> Result<Option<LoopWatch>, Refusal> {
        let threshold = self
            .threshold
            .unwrap_or(before.map(|watch| watch.threshold));
        let window_secs = self.window_secs;
        match threshold {
            Some(threshold) => Ok(Some(LoopWatch {
                threshold,
                window_secs: window_secs
                    .or(before.map(|watch| watch.window_secs))
                    .unwrap_or(limits::LOOP_WINDOW_SECS),
            })),
            None if window_secs.is_some() => Err(invalid(
                "loop_threshold",
                "loop_window_secs needs a loop_threshold".to_owned(),
            )),
            None => Ok(None),
        }
    }
}
