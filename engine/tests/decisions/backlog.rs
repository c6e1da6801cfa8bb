//! After a long stop: more holds and chains are over than one turn may end.

use super::desk::{Desk, ORG, WORKFLOW, ask, cents, chain, in_chain, operation};
use engine::Pump;
use engine::code::Code;
use engine::command::{Command, Outcome, Reply, Verdict, When};
use engine::pump::{Append, Asked, Parked, Respond};
use persist::group_commit::Batch;
use persist::record::{Endpoint, Record};
use persist::{HoldId, Lsn, Millis};
use std::cell::RefCell;
use std::rc::Rc;

/// How many end in one turn.
const AT_ONCE: usize = 1024;

/// More holds than that, then the call under test a second later, and both are over.
fn behind(change: impl Fn(&mut Desk)) -> Desk {
    let mut desk = Desk::new();
    for _ in 0..AT_ONCE + 100 {
        desk.allowed(|_| {});
    }
    desk.wait(1_000);
    change(&mut desk);
    desk.wait(300_000);
    assert!(desk.engine.has_due());
    desk
}

#[test]
fn an_operation_whose_hold_is_over_is_a_new_one_although_the_hold_was_not_ended_yet() {
    let call = |desk: &mut Desk| desk.allowed(operation(Endpoint::Gate, "op", 1));
    let mut desk = behind(|desk| _ = call(desk));
    let open = desk.workflow().open_holds;
    call(&mut desk);
    assert_eq!(desk.workflow().open_holds, open, "one ended, one began");
    // Nor is it in the way of another request.
    let mut desk = behind(|desk| _ = call(desk));
    desk.allowed(operation(Endpoint::Gate, "op", 2));
}

#[test]
fn a_hold_that_is_over_is_not_run_on_although_it_was_not_ended_yet() {
    let named = RefCell::new(HoldId(0));
    let mut desk = behind(|desk| *named.borrow_mut() = desk.allowed(|_| {}));
    let block = desk.refused(|ask| {
        ask.endpoint = Endpoint::Execute;
        ask.reservation = Some(*named.borrow());
        ask.must_find_reservation = true;
    });
    assert_eq!(block.code, Code::ExecutionNotFound);
}

#[test]
fn a_chain_that_fell_silent_is_over_although_it_was_not_ended_yet() {
    let begin = |desk: &mut Desk| _ = desk.allowed(in_chain("run", Some(cents(1))));
    let mut desk = behind(begin);
    assert!(!desk.heartbeat(chain("run")));
    let declared = |ask: &mut engine::command::Ask| {
        in_chain("run", Some(cents(5)))(ask);
        ask.estimated_tokens = 50_000;
    };
    desk.allowed(declared);
    assert!(desk.heartbeat(chain("run")));
}

#[test]
fn a_refusal_for_money_waits_until_all_holds_that_are_over_have_ended() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(1200)));
    for _ in 0..1200 {
        desk.allowed(|_| {});
    }
    desk.wait(300_000);
    let all = |ask: &mut engine::command::Ask| ask.estimated_tokens = 12_000_000;
    let (decision, when) = desk.try_ask(all);
    assert!(matches!(decision.verdict, Verdict::Block(_)) && when == When::Later);
    // Other refusals do not.
    let block = desk.refused(|ask| {
        ask.reservation = Some(HoldId(1));
        ask.must_find_reservation = true;
        ask.endpoint = Endpoint::Execute;
    });
    assert_eq!(block.code, Code::ExecutionNotFound);
    desk.wait(0);
    assert!(!desk.engine.has_due());
    desk.allowed(all);
    desk.refused(|_| {});
}

/// What was appended, turn by turn: how many records, and whether a hold was minted after one ended.
#[derive(Default)]
struct Appended {
    lsn: u64,
    counts: Vec<u32>,
    kinds: Vec<&'static str>,
}

impl Append for Appended {
    fn append(&mut self, batch: &Batch) -> persist::Result<Lsn> {
        for bytes in batch.records() {
            self.kinds.push(match postcard::from_bytes(bytes).unwrap() {
                Record::HoldMinted(_) => "minted",
                Record::HoldEnded(_) => "ended",
                _ => "other",
            });
        }
        self.counts.push(batch.count());
        self.lsn += u64::from(batch.count());
        Ok(Lsn(self.lsn - u64::from(batch.count()) + 1))
    }

    fn appended_lsn(&self) -> Lsn {
        Lsn(self.lsn)
    }
}

/// Somebody who waits.
#[derive(Clone, Default)]
struct Client(Rc<RefCell<Option<Reply>>>);

impl Respond for Client {
    fn respond(self, reply: Reply) -> bool {
        *self.0.borrow_mut() = Some(reply);
        true
    }

    fn is_abandoned(&self) -> bool {
        false
    }
}

impl Client {
    fn is_allowed(&self) -> Option<bool> {
        match &self.0.borrow().as_ref()?.outcome {
            Outcome::Decision(decision) => Some(matches!(decision.verdict, Verdict::Allow { .. })),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_pump_ends_a_backlog_turn_by_turn_and_answers_who_needs_it_when_it_is_done() {
    let mut desk = Desk::new();
    desk.cap_org(Some(cents(3000)));
    let start = desk.engine.now();
    let (mut pumps, publisher) = Pump::<Client>::start(desk.engine, Lsn(0), 1);
    let (pump, mut log) = (&mut pumps[0], Appended::default());
    let mut parking = engine::pump::Parking::new(1);
    let mut serial = 0;
    let mut turn = |log: &mut Appended, at: u64, tokens: &[u64]| -> Vec<Client> {
        let clients: Vec<_> = tokens.iter().map(|_| Client::default()).collect();
        let asked = tokens.iter().zip(&clients).map(|(tokens, client)| {
            serial += 1;
            let mut ask = ask();
            ask.estimated_tokens = *tokens;
            ask.new_hold = HoldId::mint(start, WORKFLOW.slot(ORG), serial);
            Asked {
                command: Command::Ask(Box::new(ask)),
                respond: Some(client.clone()),
            }
        });
        let mut asked = asked.collect::<Vec<_>>().into_iter();
        let mut park = |parked: Parked<Client>| parking.park(parked);
        pump.turn(Millis(start.0 + at), log, &mut asked, &mut park)
            .unwrap();
        parking.release(&publisher, log.appended_lsn(), |_, _| {});
        assert_eq!(pump.must_turn(), at > 0 && log.counts.len() < 4);
        clients
    };
    let first = turn(&mut log, 0, &[0; 3000]);
    assert!(first.iter().all(|client| client.is_allowed() == Some(true)));
    // 3,000 holds are over: 1,024 a turn. What needs 2,500 of them waits, what needs one does not.
    let large = turn(&mut log, 300_000, &[25_000_000, 0]);
    assert_eq!(large[0].is_allowed(), None);
    assert_eq!(large[1].is_allowed(), Some(true));
    let small = turn(&mut log, 300_001, &[0]);
    assert_eq!(small[0].is_allowed(), Some(true));
    assert_eq!(large[0].is_allowed(), None);
    let last = turn(&mut log, 300_002, &[10_000_000]);
    assert_eq!(large[0].is_allowed(), Some(true));
    assert_eq!(last[0].is_allowed(), Some(false), "who came first, has it");
    assert_eq!(log.counts, [3000, 1025, 1025, 952 + 2]);
    // The holds whose money it takes ended before it in the log.
    let minted = log.kinds.iter().rposition(|kind| *kind == "minted");
    let ended = log.kinds.iter().rposition(|kind| *kind == "ended");
    assert!(ended < minted);
}
