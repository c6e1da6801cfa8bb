//! Booking at another price what was booked at one that does not hold any more, and looking for what
//! has no price at all. Both go through all sums a piece at a time, since the pump has other things
//! to do; whoever asks goes on where the last answer ended.

use crate::command::{Outcome, Place, Repriced, Unpriced, When};
use crate::directory::Directory;
use crate::engine::Engine;
use crate::price;
use crate::price_book::PriceBook;
use crate::ratings::{OfWorkflow, Row};
use crate::shared::Shared;
use persist::group_commit::Batch;
use persist::record::{Actor, Record, Rerated};
use persist::{Nanos, OrgId, WorkflowId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Workflows, and sums in them, looked at for one answer: a few milliseconds of the pump's time.
const LOOKED_AT: usize = 2_000;
const SUMS_LOOKED_AT: usize = 20_000;
/// Corrections after which no further workflow is looked at.
const ENOUGH: usize = 1_000;

/// A sum to be booked anew.
struct Due {
    org: OrgId,
    workflow: WorkflowId,
    row: Row<'static>,
    model: String,
    to: u64,
    cost: Nanos,
}

impl Engine {
    /// Looks at workflows behind a place until `each` has had enough; returns where to go on.
    fn survey(
        &self,
        after: Option<Place>,
        mut each: impl FnMut(WorkflowId, &OfWorkflow) -> bool,
    ) -> Option<Place> {
        let (mut looked_at, mut sums) = (0, 0);
        for (number, shard) in self.numbered_shards() {
            if after.is_some_and(|after| number < after.shard) {
                continue;
            }
            let behind = after.filter(|after| after.shard == number);
            for (workflow, of) in shard.ratings.behind(behind.map(|after| after.workflow)) {
                let enough = each(workflow, of);
                looked_at += 1;
                sums += of.len();
                if enough || looked_at == LOOKED_AT || sums >= SUMS_LOOKED_AT {
                    return Some(Place {
                        shard: number,
                        workflow,
                    });
                }
            }
        }
        None
    }

    /// Books at the price that holds for its day what was charged for a model at another, or at the
    /// version `from` only. What is at its price already stays as it is, so that doing it again does
    /// nothing.
    pub(crate) fn reprice(
        &mut self,
        published: &Directory,
        (model, from): (&str, Option<u64>),
        after: Option<Place>,
        actor: Actor,
        batch: &mut Batch,
    ) -> persist::Result<(Outcome, When)> {
        let mut due = Vec::new();
        let next = self.survey(after, |workflow, of| {
            let rows = of.rows().filter(|row| {
                from.is_none_or(|from| row.version == from)
                    && price::names(row.model).any(|name| name == model)
            });
            for row in rows {
                due.extend(self.due(published.prices(), workflow, of.org, &row));
            }
            due.len() >= ENOUGH
        });
        let mut done = Repriced {
            next,
            ..Repriced::default()
        };
        for due in due {
            done.entries += 1;
            done.charges += due.row.sum.charges;
            done.before += due.row.sum.cost;
            done.after += due.cost;
            self.rebook(published, &due, actor, batch)?;
        }
        Ok((Outcome::Repriced(done), When::Durable))
    }

    /// What a sum is to be booked at, unless the price it is booked at holds on its day.
    fn due(
        &self,
        book: &PriceBook,
        workflow: WorkflowId,
        org: OrgId,
        row: &Row<'_>,
    ) -> Option<Due> {
        let quote = |at| book.quote(self.price_table(), Some(row.model), None, at);
        let holds = |at| quote(at).version == row.version;
        if book.turns(row.model, row.day).any(holds) {
            return None;
        }
        let quote = quote(PriceBook::end_of(row.day));
        Some(Due {
            org,
            workflow,
            model: row.model.to_owned(),
            to: quote.version,
            cost: quote.cost_of(&row.sum.tokens),
            row: Row {
                model: "",
                ..row.clone()
            },
        })
    }

    fn rebook(
        &mut self,
        published: &Directory,
        due: &Due,
        actor: Actor,
        batch: &mut Batch,
    ) -> persist::Result<()> {
        let Row {
            day, payer, sum, ..
        } = due.row;
        let more = due.cost - sum.cost;
        let org = published.org(due.org).map(|org| &org.shared);
        let key = published.key(payer).and_then(|key| key.shared.as_ref());
        let shared: [Option<&Arc<Shared>>; 2] = [org, key];
        // Tighten before append, loosen after append, as with charges and releases.
        if more.is_positive() {
            for shared in shared.into_iter().flatten() {
                shared.money.charge(day, more, Nanos::ZERO);
            }
        }
        let rerated = Rerated {
            at: self.now(),
            org: due.org,
            workflow: due.workflow,
            payer,
            day,
            model: &due.model,
            from: due.row.version,
            to: due.to,
            tokens: sum.tokens,
            before: sum.cost,
            after: due.cost,
            actor,
        };
        self.emit(&Record::Rerated(rerated), batch)?;
        if more < Nanos::ZERO {
            for shared in shared.into_iter().flatten() {
                self.pending_mut().refund(shared, day, -more);
            }
        }
        Ok(())
    }

    /// Models that were charged for without a price, and still have none.
    pub(crate) fn unpriced(&self, published: &Directory, after: Option<Place>) -> (Outcome, When) {
        let book = published.prices();
        let mut found: BTreeMap<String, Unpriced> = BTreeMap::new();
        let next = self.survey(after, |_, of| {
            for row in of.rows().filter(|row| row.version == 0) {
                let at = PriceBook::end_of(row.day);
                let quote = book.quote(self.price_table(), Some(row.model), None, at);
                if !quote.guesses_of(&row.sum.tokens) {
                    continue;
                }
                let new = Unpriced {
                    model: row.model.to_owned(),
                    charges: 0,
                    tokens: 0,
                    cost: Nanos::ZERO,
                    first: row.day,
                    last: row.day,
                    orgs: BTreeSet::new(),
                };
                let known = found.entry(row.model.to_owned()).or_insert(new);
                known.charges += row.sum.charges;
                known.tokens = known.tokens.saturating_add(row.sum.all_tokens());
                known.cost += row.sum.cost;
                known.first = known.first.min(row.day);
                known.last = known.last.max(row.day);
                known.orgs.insert(of.org);
            }
            false
        });
        let found = found.into_values().collect();
        (Outcome::Unpriced { found, next }, When::Durable)
    }
}
