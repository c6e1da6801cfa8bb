//! What the engine shows of its state: workflows, an org's ledger, open holds.

use crate::account::Sums;
use crate::command::{KeyView, OrgSums, OrgView, Outcome, WorkflowView};
use crate::directory::Directory;
use crate::engine::Engine;
use crate::manage::Refusal;
use crate::rules::Described;
use crate::shard::OpenHold;
use persist::record::{PeriodKind, Scope, State};
use persist::{Day, HoldId, KeyId, Nanos, OrgId, WorkflowId};
use std::collections::BinaryHeap;
use std::sync::Arc;

impl Engine {
    pub(crate) fn show(&self, directory: &Directory, org: OrgId, id: WorkflowId) -> Outcome {
        match self.view(directory, org, id) {
            Some(view) => Outcome::Workflow(Box::new(view)),
            None => Outcome::Refused(Refusal::NotFound("workflow")),
        }
    }

    pub(crate) fn view(
        &self,
        directory: &Directory,
        org: OrgId,
        id: WorkflowId,
    ) -> Option<WorkflowView> {
        let entry = directory.workflow(org, id)?;
        let shard = self.shard_with(org, id)?;
        let period = self.calendar.period(entry.period);
        let untouched = WorkflowView {
            entry: Arc::clone(entry),
            state: State::Normal,
            version: 0,
            reason: None,
            state_since: entry.created_at,
            state_by: None,
            sums: Sums::default(),
            lifetime: Nanos::ZERO,
            period,
            open_holds: 0,
        };
        let Some(live) = shard.workflow(id) else {
            return Some(untouched);
        };
        let standing = live.standing();
        Some(WorkflowView {
            state: standing.state,
            version: standing.version,
            reason: standing.reason.as_deref().map(str::to_owned),
            state_since: standing.since.max(entry.created_at),
            state_by: standing.by,
            sums: live.account.since(period.first),
            lifetime: live.account.since(Day(0)).spent,
            open_holds: live.open_holds.into(),
            ..untouched
        })
    }

    pub(crate) fn show_org(&self, directory: &Directory, org: OrgId) -> Outcome {
        let Some(entry) = directory.org(org) else {
            return Outcome::Refused(Refusal::NotFound("organization"));
        };
        let period = self.calendar.period(entry.period);
        let mut keys: Vec<_> = entry.keys.iter().map(|id| (*id, Sums::default())).collect();
        keys.sort_unstable_by_key(|(id, _)| *id);
        let mut view = OrgView {
            sums: Sums::default(),
            period,
            today: self.calendar.today,
            workflows: Vec::new(),
            keys: Vec::new(),
        };
        for id in &entry.workflows {
            let Some(workflow) = self.view(directory, org, *id) else {
                continue;
            };
            if let Some(shard) = self.shard_with(org, *id) {
                if let Some(live) = shard.workflow(*id) {
                    view.sums += live.account.since(period.first);
                }
                for (payer, account) in shard.payers_of(*id) {
                    let key = directory.key(payer);
                    let kind = key.map(|key| key.period).unwrap_or_default();
                    let first = self.calendar.period(kind).first;
                    let at = keys.binary_search_by_key(&payer, |(id, _)| *id);
                    if let Some((_, sums)) = at.ok().and_then(|at| keys.get_mut(at)) {
                        *sums += account.since(first);
                    }
                }
            }
            view.workflows.push(workflow);
        }
        view.keys = keys;
        Outcome::Org(Box::new(view))
    }

    /// What an org has used, from the figures that calls are decided with.
    pub(crate) fn show_sums(&self, directory: &Directory, org: OrgId) -> Outcome {
        let Some(entry) = directory.org(org) else {
            return Outcome::Refused(Refusal::NotFound("organization"));
        };
        let (shared, now) = (&entry.shared, self.now());
        let any = Described {
            workflow: WorkflowId(0),
            key: KeyId(0),
            tools: &[],
            model: None,
            projected: Nanos::ZERO,
        };
        let own = entry.budget.map(|cap| (cap, entry.period, None));
        let rules = entry.rules.budgets(entry.composition, Scope::Org, &any);
        let rules = rules.map(|(cap, policy)| (cap, policy.period, Some(Arc::clone(policy))));
        let sums = |kind| {
            let first = self.calendar().period(kind).first;
            self.pending().sums(shared, first).0
        };
        let caps = own.into_iter().chain(rules);
        let tightest = caps.min_by_key(|(cap, kind, _)| *cap - sums(*kind).taken());
        let (budget, kind, policy) = tightest.map_or((None, entry.period, None), |tightest| {
            (Some(tightest.0), tightest.1, tightest.2)
        });
        let rate = entry.rules.rate(entry.composition, Scope::Org, &any);
        let month = self.calendar().period(PeriodKind::Month);
        Outcome::Sums(Box::new(OrgSums {
            budget,
            policy,
            period: self.calendar().period(kind),
            sums: sums(kind),
            lifetime: shared.money.since(Day(0)).spent,
            burnt: shared.burn_rate(now),
            rate_used: shared.calls(now),
            rate_limit: rate.map(|(limit, _)| limit),
            executions: shared.executed_since(month.first),
            month,
            in_second: shared.second.calls(now),
            now,
        }))
    }

    /// What keys have used: a bound one in its workflow's shard, others in what all shards share.
    pub(crate) fn show_keys(
        &self,
        directory: &Directory,
        org: OrgId,
        ids: &[KeyId],
    ) -> Vec<KeyView> {
        let month = self.calendar().period(PeriodKind::Month).first;
        let keys = ids.iter().filter_map(|id| directory.key(*id));
        let keys = keys.filter(|key| key.org == org);
        let shown = keys.filter_map(|key| {
            let period = self.calendar().period(key.period);
            let (sums, lifetime, executions) = match (&key.shared, key.workflow) {
                (Some(shared), _) => {
                    let (sums, _) = self.pending().sums(shared, period.first);
                    let lifetime = shared.money.since(Day(0)).spent;
                    (sums, lifetime, shared.executed_since(month))
                }
                (None, workflow) => {
                    let workflow = workflow?;
                    let shard = self.shard_with(org, workflow)?;
                    let account = shard.payer(workflow, key.id);
                    let since = |first| account.map(|of| of.since(first)).unwrap_or_default();
                    let executions = shard.executions(workflow, key.id).of(month);
                    (
                        since(period.first),
                        since(Day(0)).spent,
                        u64::from(executions),
                    )
                }
            };
            Some(KeyView {
                entry: Arc::clone(key),
                sums,
                lifetime,
                period,
                executions,
            })
        });
        shown.collect()
    }

    /// Open holds of an org in these shards, by id.
    pub(crate) fn open_holds(
        &self,
        directory: &Directory,
        org: OrgId,
        workflow: Option<WorkflowId>,
        after: Option<HoldId>,
        limit: usize,
    ) -> Vec<OpenHold> {
        let Some(entry) = directory.org(org) else {
            return Vec::new();
        };
        // Never more than a page of them at once, however many there are: the largest goes.
        let mut page: BinaryHeap<HoldId> = BinaryHeap::new();
        let wanted = |id: &WorkflowId| workflow.is_none_or(|only| only == *id);
        for id in entry.workflows.iter().filter(|id| wanted(id)) {
            let Some(shard) = self.shard_with(org, *id) else {
                continue;
            };
            let behind = |hold: &HoldId| after.is_none_or(|after| *hold > after);
            for hold in shard.holds_of(*id).filter(behind) {
                if page.len() < limit {
                    page.push(hold);
                } else if let Some(mut last) = page.peek_mut().filter(|last| hold < **last) {
                    *last = hold;
                }
            }
        }
        let ids = page.into_sorted_vec().into_iter();
        ids.filter_map(|id| self.part(id.slot())?.hold(id))
            .collect()
    }
}
