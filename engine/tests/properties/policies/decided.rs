//! The same policies through the whole of `decide`: the verdict, the policy it names, the cap it
//! comes closest to. A call is asked about several times, so that rates and loops come to bear.

use super::{ALLOW, Answer, BLOCK, Call, call, listed, policy, with_ids};
use super::{first_match, first_tool_rule, most_restrictive, names};
use engine::code::Code;
use engine::command::{Ask, Protocol, Verdict};
use engine::decide::{Context, Decided, Effect, decide};
use engine::directory::Directory;
use engine::evaluate::{effective, evaluate};
use engine::pending::Pending;
use engine::period::Calendar;
use engine::plan::PlanTable;
use engine::price::PriceTable;
use engine::rules::{QUESTIONS, SCOPES, Standing};
use engine::shard::Shard;
use persist::record::{
    Actor, Change, Composition, DirectoryRecord, Endpoint, Key, Org, PeriodKind, Policy, Scopes,
    Workflow,
};
use persist::{Day, HoldId, KeyId, Millis, Nanos, OrgId, PolicyId, WorkflowId};
use proptest::prelude::*;

const ORG: OrgId = OrgId(1);
const DAY: Day = Day(20_000);

/// Whatever the model, a token costs a nano-dollar.
const PRICES: &str = r#"{"source":"a test","retrieved":"never","models":[],
 "provisional":{"input":1000000,"output":1000000,"cache_read":1000000,
                "cache_write":1000000,"reasoning":1000000}}"#;

/// One org with the call's workflow and key, uncapped but for policies.
fn directory(all: &[Policy<'static>], composition: Composition, call: &Call) -> Directory {
    let org = Org {
        id: ORG,
        name: "an org",
        plan: "",
        contact_email: "",
        budget: None,
        period: PeriodKind::Month,
        composition,
        created_at: Millis(0),
    };
    let workflow = Workflow {
        id: WorkflowId(call.workflow),
        org: ORG,
        name: "a workflow",
        external_id: None,
        description: "",
        budget: None,
        period: PeriodKind::Month,
        overdraft: None,
        max_per_call: None,
        chain_cap: None,
        chain_secs: 3600,
        watch: None,
        approvals: true,
        created_at: Millis(0),
        updated_at: Millis(0),
    };
    let key = Key {
        id: KeyId(call.key),
        org: ORG,
        workflow: None,
        name: "a key",
        key_hash: [0; 32],
        prefix: "",
        suffix: "",
        sealed_secret: &[],
        key_version: 1,
        scopes: Scopes::ALL,
        budget: None,
        period: PeriodKind::Month,
        calls_per_minute: None,
        expires_at: None,
        created_at: Millis(0),
    };
    let mut changes = vec![
        Change::OrgAdded(org),
        Change::WorkflowAdded(workflow),
        Change::KeyAdded(key),
    ];
    changes.extend(all.iter().cloned().map(Change::PolicyAdded));
    let mut directory = Directory::default();
    directory.fold(&DirectoryRecord {
        at: Millis(0),
        actor: Actor::System,
        changes,
    });
    directory
}

/// A declared gate of protocol 4 without an operation: each time it is asked it counts.
fn ask(call: &Call) -> Ask {
    Ask {
        endpoint: Endpoint::Gate,
        protocol: Protocol::V4,
        org: ORG,
        key: KeyId(call.key),
        workflow: WorkflowId(call.workflow),
        operation: None,
        call: None,
        operation_id: None,
        execution_id: None,
        trace_id: None,
        model: call.model.map(str::to_owned),
        model_lower: call.model.map(str::to_owned),
        tools: call.tools.clone(),
        tools_line: call.tools.join("\n"),
        digest: None,
        estimated_tokens: 0,
        max_output_tokens: Some(call.projected.unsigned_abs()),
        chain: None,
        chain_end: false,
        reservation: None,
        must_find_reservation: false,
        new_hold: HoldId(1),
        noted: Vec::new(),
        figures: None,
    }
}

/// How a call ends, whoever says so.
#[derive(Debug, PartialEq)]
enum End {
    Refused(Code, Option<PolicyId>),
    /// What it holds, and the cap that leaves least.
    Allowed(Nanos, Option<Nanos>),
}

/// What must become of the `nth` time a call is asked about, of which `passed` got past all rates.
fn expected(
    all: &[Policy<'static>],
    answer: &Answer,
    call: &Call,
    nth: u32,
    passed: &mut u32,
) -> End {
    if let Some((policy, _)) = &answer.blocked {
        return End::Refused(Code::ToolBlocked, Some(*policy));
    }
    let unnamed = first_tool_rule(all, call).filter(|_| call.tools.is_empty());
    if unnamed.is_some() {
        return End::Refused(Code::ToolBlocked, unnamed);
    }
    for (_, (threshold, _), id) in &answer.loops {
        let rule = all.iter().find(|p| p.id == *id).unwrap();
        let watches = |tool: &String| rule.tools.is_empty() || names(rule, tool);
        if rule.action == BLOCK && nth >= *threshold && call.tools.iter().any(watches) {
            return End::Refused(Code::LoopDetected, Some(*id));
        }
        assert_ne!(rule.action, ALLOW, "it says nothing");
    }
    if let Some((_, _, id)) = answer.rates.iter().find(|(_, limit, _)| *passed >= *limit) {
        return End::Refused(Code::RateLimitExceeded, Some(*id));
    }
    *passed += 1;
    let asked = Nanos(call.projected);
    let full = |cap: &Nanos| *cap <= Nanos::ZERO || asked > *cap;
    match answer.caps.iter().find(|(_, cap, _)| full(cap)) {
        Some((persist::record::Scope::Org, _, id)) => {
            End::Refused(Code::BudgetOrgCeilingBlocked, Some(*id))
        }
        Some((_, _, id)) => End::Refused(Code::BudgetHardBlocked, Some(*id)),
        None => End::Allowed(asked, answer.caps.iter().map(|(_, cap, _)| *cap).min()),
    }
}

fn end(decided: &Decided) -> End {
    match (&decided.decision.verdict, &decided.effect) {
        (Verdict::Block(block), _) => {
            End::Refused(block.code, block.policy.as_ref().map(|policy| policy.id))
        }
        (Verdict::Allow { .. }, Effect::Mint(mint)) => {
            let cap = mint.budget.as_ref().map(|figures| figures.cap);
            let remaining = decided.decision.remaining;
            assert_eq!(remaining, cap.map(|cap| cap - mint.amount));
            End::Allowed(mint.amount, cap)
        }
        other => panic!("{other:?}"),
    }
}

/// A desk for one call, asked again and again.
struct Desk {
    directory: Directory,
    shard: Shard,
    prices: PriceTable,
    calendar: Calendar,
    pending: Pending,
    plans: PlanTable,
}

impl Desk {
    fn new(all: &[Policy<'static>], composition: Composition, call: &Call) -> Self {
        Self {
            directory: directory(all, composition, call),
            shard: Shard::default(),
            prices: PriceTable::from_json(PRICES).unwrap(),
            calendar: Calendar::of(DAY),
            pending: Pending::default(),
            plans: PlanTable::default(),
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            directory: &self.directory,
            shard: &self.shard,
            prices: &self.prices,
            floor: Nanos(1),
            now: DAY.start(),
            calendar: &self.calendar,
            pending: &self.pending,
            plans: &self.plans,
        }
    }

    fn ask(&mut self, call: &Call) -> Decided {
        let mut meters = std::mem::take(&mut self.shard.meters);
        let decided = decide(&self.context(), &mut meters, &ask(call), false);
        self.shard.meters = meters;
        decided
    }
}

const fn composition(strictest: bool) -> Composition {
    if strictest {
        Composition::MostRestrictive
    } else {
        Composition::FirstMatch
    }
}

/// Without those in the shadow, but for one, which is in force.
fn promoted(all: &[Policy<'static>], one: Option<PolicyId>) -> Vec<Policy<'static>> {
    let kept = all.iter().filter(|p| !p.shadow || Some(p.id) == one);
    let kept = kept.map(|p| Policy {
        shadow: false,
        ..p.clone()
    });
    kept.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_call_ends_as_the_policies_that_answer_say(
        all in proptest::collection::vec(policy(), 0..14).prop_map(with_ids),
        call in call(),
        strictest in any::<bool>(),
        times in 1..6_u32,
    ) {
        let composition = composition(strictest);
        let answer = match composition {
            Composition::MostRestrictive => most_restrictive(&all, &call),
            Composition::FirstMatch => first_match(&all, &call),
        };
        let (mut desk, mut passed) = (Desk::new(&all, composition, &call), 0);
        for nth in 1..=times {
            let decided = desk.ask(&call);
            let must = expected(&all, &answer, &call, nth, &mut passed);
            prop_assert_eq!(end(&decided), must, "time {}", nth);
        }
    }

    #[test]
    fn policies_in_the_shadow_change_no_decision(
        all in proptest::collection::vec(policy(), 0..14).prop_map(with_ids),
        calls in proptest::collection::vec(call(), 1..4),
        strictest in any::<bool>(),
    ) {
        // All of one workflow and key, so that they meet on the same meters.
        let (first, composition) = (calls[0].clone(), composition(strictest));
        let mut with = Desk::new(&all, composition, &first);
        let mut without = Desk::new(&promoted(&all, None), composition, &first);
        for call in calls.iter().cycle().take(10) {
            let call = Call { workflow: first.workflow, key: first.key, ..call.clone() };
            let (with, without) = (with.ask(&call), without.ask(&call));
            prop_assert_eq!(end(&with), end(&without));
            let mark = |decided: &Decided| decided.mark.as_ref().map(|mark| mark.to);
            prop_assert_eq!(mark(&with), mark(&without));
        }
    }

    #[test]
    fn a_policy_in_the_shadow_notes_what_it_would_do_in_force(
        all in proptest::collection::vec(policy(), 1..14).prop_map(with_ids),
        call in call(),
        strictest in any::<bool>(),
    ) {
        let composition = composition(strictest);
        for one in all.iter().filter(|p| p.shadow) {
            let mut here = Desk::new(&all, composition, &call);
            let mut there = Desk::new(&promoted(&all, Some(one.id)), composition, &call);
            for nth in 1..6 {
                let (here, there) = (here.ask(&call), there.ask(&call));
                let notes = &here.decision.notes;
                let refuses = notes.iter().any(|n| n.policy.id == one.id && n.refuses);
                let End::Refused(_, by) = end(&there) else {
                    prop_assert!(!refuses, "time {}: {:?} refuses, and does not", nth, one);
                    if matches!(end(&here), End::Refused(..)) {
                        // It lets through what is refused without it: from here on they differ.
                        break;
                    }
                    continue;
                };
                prop_assert!(by != Some(one.id) || refuses, "time {}: {:?} is silent", nth, one);
                break;
            }
        }
    }

    #[test]
    fn what_is_shown_in_effect_is_what_decides(
        all in proptest::collection::vec(policy(), 0..14).prop_map(with_ids),
        call in call(),
        strictest in any::<bool>(),
    ) {
        let mut desk = Desk::new(&all, composition(strictest), &call);
        let (workflow, key) = (WorkflowId(call.workflow), KeyId(call.key));
        let shown = {
            let org = desk.directory.org(ORG).unwrap();
            let workflow = desk.directory.workflow(ORG, workflow).unwrap();
            effective(&desk.context(), org, workflow, key)
        };
        // Everything that concerns the workflow and key, in order, and nothing else.
        for (question, looked) in QUESTIONS.iter().zip(&shown.looked) {
            let listed = SCOPES.iter().flat_map(|scope| listed(&all, *question, *scope, &call));
            let listed: Vec<_> = listed.map(|p| p.id).collect();
            let ids: Vec<_> = looked.1.iter().map(|one| one.policy.id).collect();
            prop_assert_eq!(ids, listed);
        }
        // Whoever refuses this call stands there as one that may.
        for _ in 0..5 {
            let decided = desk.ask(&call);
            let End::Refused(code, Some(by)) = end(&decided) else { continue };
            let looked = shown.looked.iter().flat_map(|(_, looked)| looked);
            let standing = looked.clone().find(|one| one.policy.id == by).unwrap().standing;
            let unnamed = code == Code::ToolBlocked && call.tools.is_empty();
            let may = matches!(standing, Standing::Answers | Standing::Conditional);
            // With most restrictive a stricter one may not be met by this call.
            let heard = strictest && standing == Standing::Heard;
            prop_assert!(unnamed || may || heard, "{:?} {:?}", by, standing);
        }
        // A call that meets no condition ends by the figures that are shown.
        let plain = Call { tools: Vec::new(), model: None, projected: 0, ..call };
        let mut desk = Desk::new(&all, composition(strictest), &plain);
        let no_tools = first_tool_rule(&all, &plain).is_some();
        let fewest = shown.limits.rates.iter().map(|rate| rate.limit).min().unwrap_or(u32::MAX);
        let least = shown.limits.caps.iter().map(|(cap, _)| cap.cap - cap.spent - cap.held).min();
        for nth in 0..5 {
            let must = match least {
                _ if no_tools => Some(Code::ToolBlocked),
                _ if nth >= fewest => Some(Code::RateLimitExceeded),
                Some(left) if left <= Nanos::ZERO => Some(Code::BudgetHardBlocked),
                _ => None,
            };
            let ended = match end(&desk.ask(&plain)) {
                End::Refused(Code::BudgetOrgCeilingBlocked, _) => Some(Code::BudgetHardBlocked),
                End::Refused(code, _) => Some(code),
                End::Allowed(_, cap) => {
                    prop_assert_eq!(cap, least);
                    None
                }
            };
            prop_assert_eq!(ended, must, "call {}", nth);
        }
    }

    #[test]
    fn a_call_that_is_tried_ends_as_it_then_does(
        all in proptest::collection::vec(policy(), 0..14).prop_map(with_ids),
        call in call(),
        strictest in any::<bool>(),
    ) {
        let mut desk = Desk::new(&all, composition(strictest), &call);
        for nth in 1..6 {
            let mut described = ask(&call);
            described.figures = Some(Box::default());
            let tried = evaluate(&desk.context(), None, &described).unwrap();
            let then = desk.ask(&call);
            let words = |decision: &engine::command::Decision| match &decision.verdict {
                Verdict::Allow { .. } => (None, decision.remaining, notes(decision)),
                Verdict::Block(block) => {
                    let by = block.policy.as_ref().map(|policy| policy.id);
                    (Some((block.code, by)), decision.remaining, notes(decision))
                }
            };
            prop_assert_eq!(words(&tried.decision), words(&then.decision), "time {}", nth);
        }
    }
}

fn notes(decision: &engine::command::Decision) -> Vec<(PolicyId, bool)> {
    let notes = decision.notes.iter();
    notes
        .map(|noted| (noted.policy.id, noted.refuses))
        .collect()
}
