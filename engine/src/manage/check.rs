//! What every change is held against: lengths, bounds, characters.

use super::Refusal;
use crate::limits;
use persist::Nanos;
use persist::record::Overdraft;

pub(super) fn invalid(field: &'static str, message: String) -> Refusal {
    Refusal::Invalid {
        code: "validation_error",
        field,
        message,
    }
}

/// The name of a person, who may have none.
pub(super) fn name_or_none(field: &'static str, text: &str) -> Result<(), Refusal> {
    match text {
        "" => Ok(()),
        name => bounded(field, name, limits::PERSON_NAME_BYTES),
    }
}

/// A name, or another text of one line that may not be empty: people, orgs, workflows, policies and
/// keys are all named by this rule.
pub(super) fn bounded(field: &'static str, text: &str, most: usize) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(invalid(field, format!("{field} may not be empty")));
    }
    if text.len() > most {
        return Err(invalid(
            field,
            format!("{field} has {} bytes, {most} are allowed", text.len()),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(
            field,
            format!("{field} may not hold control characters"),
        ));
    }
    Ok(())
}

pub(super) fn budget(field: &'static str, amount: Option<Nanos>) -> Result<(), Refusal> {
    let most = Nanos::from_cents(limits::BUDGET_CENTS);
    match amount {
        Some(amount) if amount < Nanos::ZERO || amount > most => Err(invalid(
            field,
            format!(
                "{field} must be between 0 and {}, or null for no cap",
                limits::BUDGET_CENTS
            ),
        )),
        _ => Ok(()),
    }
}

pub(super) fn overdraft(
    [amount, percent]: [&'static str; 2],
    overdraft: Option<Overdraft>,
) -> Result<(), Refusal> {
    let Some(overdraft) = overdraft else {
        return Ok(());
    };
    budget(amount, overdraft.amount)?;
    match overdraft.percent {
        Some(value) if value > limits::OVERDRAFT_PERCENT => Err(invalid(
            percent,
            format!("{percent} takes 0 to {}", limits::OVERDRAFT_PERCENT),
        )),
        _ => Ok(()),
    }
}

pub(super) fn external_id(text: Option<&str>) -> Result<(), Refusal> {
    let Some(text) = text else { return Ok(()) };
    let fits = !text.is_empty()
        && text.len() <= limits::EXTERNAL_ID_BYTES
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits {
        return Ok(());
    }
    Err(invalid(
        "external_id",
        format!(
            "external_id takes 1 to {} letters, digits, _ and -",
            limits::EXTERNAL_ID_BYTES
        ),
    ))
}

/// A text that may be empty.
pub(super) fn text(field: &'static str, text: &str, most: usize) -> Result<(), Refusal> {
    if text.len() > most {
        return Err(invalid(
            field,
            format!("{field} has {} bytes, {most} are allowed", text.len()),
        ));
    }
    if text
        .chars()
        .any(|c| c.is_control() && c != '\n' && c != '\t')
    {
        return Err(invalid(
            field,
            format!("{field} may not hold control characters"),
        ));
    }
    Ok(())
}

/// A number within its bounds, if it is given.
pub(super) fn within(
    field: &'static str,
    value: Option<u32>,
    range: std::ops::RangeInclusive<u32>,
) -> Result<(), Refusal> {
    match value {
        Some(value) if !range.contains(&value) => Err(invalid(
            field,
            format!("{field} takes {} to {}", range.start(), range.end()),
        )),
        _ => Ok(()),
    }
}

/// One more of something, if there is room whatever the plan says. The sentence says how many there
/// may be and what makes room.
pub(super) fn bound(
    code: &'static str,
    current: usize,
    most: usize,
    sentence: &str,
) -> Result<(), Refusal> {
    if current < most {
        return Ok(());
    }
    Err(Refusal::Conflict {
        code,
        message: sentence.to_owned(),
    })
}

/// One more of something, if the plan has room for it.
pub(super) fn room(
    code: &'static str,
    resource: &'static str,
    current: usize,
    limit: Option<u32>,
) -> Result<(), Refusal> {
    match limit {
        Some(limit) if current >= limit as usize => Err(Refusal::Limit {
            code,
            resource,
            current: current as u64,
            limit: u64::from(limit),
        }),
        _ => Ok(()),
    }
}
