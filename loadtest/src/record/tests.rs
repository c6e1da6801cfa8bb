use std::time::Duration;

use super::*;
use crate::wire::Usage;

const USAGE: Usage = Usage {
    input: 1_000,
    output: 0,
};

fn ask(operation: &str) -> Ask {
    Ask {
        operation_id: operation.into(),
        organization_id: "org".into(),
        max_output_tokens: 1_000,
    }
}

fn charge_on(operation: &str) -> Charge {
    Charge {
        event_id: Some(format!("event-of-{operation}")),
        workflow: "w".into(),
        hold: Some(operation.into()),
        reservation: Some("r".into()),
        usage: USAGE,
        route: Route::Track,
        certain: false,
    }
}

#[test]
fn a_gate_without_an_answer_may_hold_but_need_not() {
    let mut record = Record::default();
    record.gate_sent("w", ask("o"));
    let bounds = record.bounds("w", Instant::now());
    assert_eq!((bounds.least_held, bounds.most_held), (0, 5_000_000));
}

#[test]
fn a_charge_in_doubt_widens_both_bounds_and_an_answer_narrows_them() {
    let mut record = Record::default();
    record.gate_sent("w", ask("o"));
    record.gate_allowed("o", "r");
    let id = record.charge_sent(charge_on("o"));
    let doubt = record.bounds("w", Instant::now());
    assert_eq!((doubt.least_spent, doubt.most_spent), (0, 1_000_000));
    assert_eq!((doubt.least_held, doubt.most_held), (4_000_000, 5_000_000));
    record.charge_acknowledged(id);
    let certain = record.bounds("w", Instant::now());
    assert_eq!(
        (certain.least_spent, certain.most_spent),
        (1_000_000, 1_000_000)
    );
    assert_eq!(
        (certain.least_held, certain.most_held),
        (4_000_000, 4_000_000)
    );
}

#[test]
fn a_cancelled_hold_holds_nothing_and_one_whose_cancel_is_in_doubt_may() {
    let mut record = Record::default();
    for operation in ["a", "b"] {
        record.gate_sent("w", ask(operation));
        record.gate_allowed(operation, operation);
        record.cancel_sent(operation);
    }
    record.cancel_acknowledged("a");
    let bounds = record.bounds("w", Instant::now());
    assert_eq!((bounds.least_held, bounds.most_held), (0, 5_000_000));
}

#[test]
fn near_its_expiry_a_hold_is_counted_either_way_and_afterwards_not_at_all() {
    let mut record = Record::default();
    record.gate_sent("w", ask("o"));
    record.gate_allowed("o", "r");
    let now = Instant::now();
    let near = record.bounds("w", now + Duration::from_secs(300));
    assert_eq!((near.least_held, near.most_held), (0, 5_000_000));
    let after = record.bounds("w", now + Duration::from_secs(330));
    assert_eq!((after.least_held, after.most_held), (0, 0));
}

#[test]
fn settled_charges_stay_in_the_bounds() {
    let mut record = Record::default();
    record.workflow_created("w", WorkflowRecord::created(None, None));
    let certain = record.charge_sent(Charge {
        hold: None,
        ..charge_on("x")
    });
    record.charge_acknowledged(certain);
    record.charge_sent(Charge {
        hold: None,
        ..charge_on("y")
    });
    record.settle(&mut Dice::from_seed(1), Instant::now());
    let bounds = record.bounds("w", Instant::now());
    assert_eq!(
        (bounds.least_spent, bounds.most_spent),
        (1_000_000, 2_000_000)
    );
    assert_eq!(record.charges.len(), 1);
}

#[test]
fn a_state_whose_version_does_not_grow_is_a_complaint() {
    let mut record = Record::default();
    record.workflow_created("w", WorkflowRecord::created(None, None));
    assert_eq!(record.state_seen("w", "Paused", 3), None);
    assert_eq!(record.state_seen("w", "Paused", 3), None);
    assert!(record.state_seen("w", "Normal", 3).is_some());
}
