//! What has been charged at prices that may turn out to be wrong: provisional ones, and those that
//! were set here. A sum per workflow, day, model, key and price says how many tokens of each kind it
//! was and what was booked, so that it can be booked at another price later.
//!
//! Sums follow from the log and nothing else. They are bounded: with too many, the oldest day of the
//! workflow goes, and what goes can no longer be booked anew.

use crate::price;
use persist::record::{ChargeFlags, Charged, Rated, Rerated};
use persist::{Day, KeyId, Nanos, OrgId, WorkflowId};
use std::collections::BTreeMap;

/// Days kept, as in accounts.
const DAYS: u32 = 33;
/// Models of one workflow.
const MODELS: usize = 64;
/// Sums of one workflow.
const SUMS: usize = 4096;

/// Charges that have all in common that a price depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Their tokens.
    pub tokens: Rated,
    /// What is booked for them.
    pub cost: Nanos,
    /// How many they are.
    pub charges: u64,
}

impl Sum {
    fn add(&mut self, more: &Self) {
        for (sum, more) in [
            (&mut self.tokens.input, more.tokens.input),
            (&mut self.tokens.output, more.tokens.output),
            (&mut self.tokens.cache_read, more.tokens.cache_read),
            (&mut self.tokens.cache_write, more.tokens.cache_write),
            (&mut self.tokens.reasoning, more.tokens.reasoning),
            (&mut self.charges, more.charges),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.cost += more.cost;
    }

    /// All tokens together.
    #[must_use]
    pub const fn all_tokens(&self) -> u64 {
        let tokens = &self.tokens;
        let cached = tokens.cache_read.saturating_add(tokens.cache_write);
        let out = tokens.output.saturating_add(tokens.reasoning);
        tokens.input.saturating_add(cached).saturating_add(out)
    }
}

/// A sum and what it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// The day they count in.
    pub day: Day,
    /// The model, as it was reported, lower case.
    pub model: &'a str,
    /// The key they count for.
    pub payer: KeyId,
    /// Version of the price they are booked at; 0 if it was not set here.
    pub version: u64,
    /// The sum.
    pub sum: Sum,
}

/// The sums of one workflow.
#[derive(Debug, Default)]
pub struct OfWorkflow {
    /// Whose.
    pub org: OrgId,
    /// Charges that can no longer be booked anew.
    pub lost: u64,
    /// A place whose model has no sums is free.
    models: Vec<Option<Box<str>>>,
    /// By day, place of the model, key and version.
    sums: BTreeMap<(Day, u8, KeyId, u64), Sum>,
}

impl OfWorkflow {
    /// All sums, oldest day first.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.sums
            .iter()
            .filter_map(|((day, at, payer, version), sum)| {
                let model = self.models.get(usize::from(*at))?.as_deref()?;
                Some(Row {
                    day: *day,
                    model,
                    payer: *payer,
                    version: *version,
                    sum: *sum,
                })
            })
    }

    /// How many sums there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    fn place(&self, model: &str) -> Option<u8> {
        let same = |known: &Option<Box<str>>| {
            let known = known.as_deref();
            known.is_some_and(|known| known.eq_ignore_ascii_case(model))
        };
        let at = self.models.iter().position(same)?;
        u8::try_from(at).ok()
    }

    /// A place for one more model, if there is one.
    fn new_place(&mut self, model: &str) -> Option<u8> {
        let free = self.models.iter().position(Option::is_none);
        let at = free.unwrap_or(self.models.len());
        let model = Some(price::lower(model).into());
        match self.models.get_mut(at) {
            Some(place) => *place = model,
            None if at < MODELS => self.models.push(model),
            None => return None,
        }
        u8::try_from(at).ok()
    }

    fn newest(&self) -> Option<Day> {
        self.sums.last_key_value().map(|((day, ..), _)| *day)
    }

    /// Forgets the oldest day, if that lies before `day`.
    fn forget_before(&mut self, day: Day) -> bool {
        let Some((oldest, ..)) = self.sums.keys().next().copied() else {
            return false;
        };
        if oldest >= day {
            return false;
        }
        let kept = self.sums.split_off(&(oldest.next(), 0, KeyId(0), 0));
        let gone = std::mem::replace(&mut self.sums, kept);
        self.lost = gone
            .values()
            .fold(self.lost, |lost, sum| lost.saturating_add(sum.charges));
        let mut used = [false; MODELS];
        for (_, at, ..) in self.sums.keys() {
            if let Some(used) = used.get_mut(usize::from(*at)) {
                *used = true;
            }
        }
        for (model, used) in self.models.iter_mut().zip(used) {
            if !used {
                *model = None;
            }
        }
        true
    }

    fn add(&mut self, row: &Row<'_>) {
        let day = row.day;
        if self
            .newest()
            .is_some_and(|newest| day.0.saturating_add(DAYS) <= newest.0)
        {
            self.lost = self.lost.saturating_add(row.sum.charges);
            return;
        }
        let first = day.back(DAYS - 1);
        while self.forget_before(first) {}
        loop {
            let known = self.place(row.model);
            let key = |at| (day, at, row.payer, row.version);
            let there = known.is_some_and(|at| self.sums.contains_key(&key(at)));
            // Only what is taken in may take a place: what is there follows from the sums alone.
            if (there || self.sums.len() < SUMS)
                && let Some(at) = known.or_else(|| self.new_place(row.model))
            {
                self.sums.entry(key(at)).or_default().add(&row.sum);
                return;
            }
            if !self.forget_before(day) {
                self.lost = self.lost.saturating_add(row.sum.charges);
                return;
            }
        }
    }
}

/// The sums of a shard.
#[derive(Debug, Default)]
pub struct Ratings(BTreeMap<WorkflowId, OfWorkflow>);

impl Ratings {
    /// Workflows with sums behind one, by id.
    pub fn behind(
        &self,
        after: Option<WorkflowId>,
    ) -> impl Iterator<Item = (WorkflowId, &OfWorkflow)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.0.range((from, Unbounded)).map(|(id, of)| (*id, of))
    }

    /// Takes a charge in, if its price may turn out to be wrong.
    pub fn charged(&mut self, charged: &Charged<'_>) {
        if charged.price == 0 && !charged.flags.has(ChargeFlags::PROVISIONAL) {
            return;
        }
        let event = &charged.event;
        let Some(model) = event.model.map(str::trim).filter(|model| !model.is_empty()) else {
            return;
        };
        let tokens = price::rated(&event.tokens, event.model, event.provider);
        if tokens == Rated::default() {
            return;
        }
        let row = Row {
            day: charged.day,
            model,
            payer: charged.payer,
            version: charged.price,
            sum: Sum {
                tokens,
                cost: charged.cost,
                charges: 1,
            },
        };
        self.put(charged.org, charged.workflow, &row);
    }

    /// A sum is booked at another price.
    pub fn rerated(&mut self, rerated: &Rerated<'_>) {
        let Some(of) = self.0.get_mut(&rerated.workflow) else {
            return;
        };
        let Some(at) = of.place(rerated.model) else {
            return;
        };
        let (day, payer) = (rerated.day, rerated.payer);
        if let Some(before) = of.sums.remove(&(day, at, payer, rerated.from)) {
            let after = Sum {
                cost: rerated.after,
                ..before
            };
            let place = of.sums.entry((day, at, payer, rerated.to));
            place.or_default().add(&after);
        }
    }

    /// Adds to a sum, as charges and snapshots do.
    pub fn put(&mut self, org: OrgId, workflow: WorkflowId, row: &Row<'_>) {
        let of = self.0.entry(workflow).or_default();
        of.org = org;
        of.add(row);
    }

    /// Puts back how many charges of a workflow were forgotten, as snapshots do.
    pub fn put_lost(&mut self, org: OrgId, workflow: WorkflowId, lost: u64) {
        let of = self.0.entry(workflow).or_default();
        (of.org, of.lost) = (org, lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(day: u32, model: &str, version: u64) -> Row<'_> {
        Row {
            day: Day(day),
            model,
            payer: KeyId(7),
            version,
            sum: Sum {
                tokens: Rated {
                    input: 10,
                    ..Rated::default()
                },
                cost: Nanos(3),
                charges: 1,
            },
        }
    }

    #[test]
    fn with_too_many_models_or_days_the_oldest_day_goes_and_is_counted() {
        let mut of = OfWorkflow::default();
        for n in 0..MODELS {
            of.add(&row(100, &format!("m{n}"), 0));
        }
        of.add(&row(100, "one-more", 0));
        assert_eq!((of.rows().count(), of.lost), (MODELS, 1));
        // On another day, the first day makes room.
        of.add(&row(101, "one-more", 0));
        assert_eq!((of.rows().count(), of.lost), (1, 65));
        of.add(&row(100, "M9", 0));
        of.add(&row(101 + DAYS - 1, "m", 0));
        assert_eq!(of.rows().count(), 2, "a day of {DAYS} before is kept");
        assert_eq!(of.lost, 66);
        of.add(&row(101, "m", 0));
        assert_eq!(of.rows().count(), 3);
        of.add(&row(100, "m", 0));
        assert_eq!((of.rows().count(), of.lost), (3, 67), "it is too old");
    }

    #[test]
    fn with_too_many_sums_of_one_day_the_newest_are_not_taken_in() {
        let mut of = OfWorkflow::default();
        for version in 0..SUMS as u64 + 5 {
            of.add(&row(100, "m", version));
        }
        assert_eq!((of.rows().count(), of.lost), (SUMS, 5));
        of.add(&row(100, "m", 0));
        let first = of.rows().next().unwrap().sum;
        assert_eq!(
            (first.charges, first.cost, first.tokens.input),
            (2, Nanos(6), 20)
        );
    }
}
