//! The file of plans: which there are, and which of them new organizations get. It is read once, at the
//! start; what is wrong with it is said with the file, the field and what to do.

use crate::config::Config;
use engine::plan::{Plan, PlanTable};
use serde::Deserialize;
use std::path::Path;

/// Characters of a plan's name.
const NAME_MOST: usize = 32;

/// Why the plans cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadPlans {
    /// The file is not there, or not readable.
    #[error(
        "NULLRUN_PLANS_FILE={file} cannot be read: {source}. Name a file this user can read, or leave \
         the variable out: then nobody is limited."
    )]
    Unread {
        /// Which.
        file: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A field of it.
    #[error("NULLRUN_PLANS_FILE={file}: {field}: {why}. deploy/plans.toml is an example.")]
    Field {
        /// Which file.
        file: String,
        /// Which field.
        field: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// `NULLRUN_DEFAULT_PLAN` names none.
    #[error("NULLRUN_DEFAULT_PLAN={name} is no plan: use one of {known}, or leave it out")]
    Default {
        /// What it names.
        name: String,
        /// What there is.
        known: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    /// The plan of new orgs.
    default: String,
    plan: Vec<Plan>,
}

/// The plans of these settings.
pub fn load(config: &Config) -> Result<PlanTable, BadPlans> {
    let Some(path) = &config.plans_file else {
        return with_default(config, PlanTable::default());
    };
    let text = std::fs::read_to_string(path).map_err(|source| BadPlans::Unread {
        file: path.display().to_string(),
        source,
    })?;
    with_default(config, read(path, &text)?)
}

fn with_default(config: &Config, table: PlanTable) -> Result<PlanTable, BadPlans> {
    let Some(name) = &config.default_plan else {
        return Ok(table);
    };
    if table.get(name).is_none() {
        return Err(BadPlans::Default {
            name: name.clone(),
            known: names(table.iter()),
        });
    }
    Ok(PlanTable::new(
        table.iter().cloned().collect(),
        name.clone(),
    ))
}

fn names<'a>(plans: impl Iterator<Item = &'a Plan>) -> String {
    let names: Vec<_> = plans.map(|plan| plan.name.as_str()).collect();
    names.join(", ")
}

fn read(path: &Path, text: &str) -> Result<PlanTable, BadPlans> {
    let wrong = |field: String, why: String| BadPlans::Field {
        file: path.display().to_string(),
        field,
        why,
    };
    let line = |error: &toml::de::Error| {
        let at = error.span().and_then(|span| text.get(..span.start));
        at.map_or(1, |before| before.matches('\n').count() + 1)
    };
    let syntax = |error: toml::de::Error| {
        let field = format!("line {}", line(&error));
        wrong(field, error.message().trim().replace('\n', ", "))
    };
    let deserializer = toml::Deserializer::parse(text).map_err(syntax)?;
    let contents: Contents = serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let field = format!("{} (line {})", error.path(), line(error.inner()));
        wrong(field, error.inner().message().trim().replace('\n', ", "))
    })?;
    check(&contents).map_err(|(field, why)| wrong(field, why))?;
    Ok(PlanTable::new(contents.plan, contents.default))
}

/// What the shape of the file alone does not tell.
fn check(contents: &Contents) -> Result<(), (String, String)> {
    let bad = |field: String, why: &str| Err((field, why.to_owned()));
    let plans = &contents.plan;
    for (index, plan) in plans.iter().enumerate() {
        let at = |field: &str| format!("plan[{index}].{field}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let fits = (1..=NAME_MOST).contains(&plan.name.len()) && plan.name.chars().all(plain);
        if !fits {
            return bad(
                at("name"),
                "a name has 1 to 32 lower-case letters, digits, - and _",
            );
        }
        if plans
            .iter()
            .take(index)
            .any(|other| other.name == plan.name)
        {
            return bad(
                at("name"),
                "another plan has this name; give it one of its own",
            );
        }
        if plan.title.trim().is_empty() {
            return bad(at("title"), "write what people are to read");
        }
        let limits = &plan.limits;
        for (name, limit) in [
            ("limits.workflows", limits.workflows),
            ("limits.api_keys", limits.api_keys),
            ("limits.seats", limits.seats),
        ] {
            if limit == Some(0) {
                return bad(
                    at(name),
                    "must be at least 1, for every organization begins with one; leave it out for no \
                     limit",
                );
            }
        }
    }
    if !plans.iter().any(|plan| plan.name == contents.default) {
        let why = format!(
            "\"{}\" is no plan of this file; use one of {}",
            contents.default,
            names(plans.iter())
        );
        return Err(("default".to_owned(), why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PlanTable, String> {
        super::read(Path::new("p.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_is_read_whole() {
        let table = read(include_str!("../../deploy/plans.toml")).unwrap();
        let limit = |name| {
            let plan = table.get(name).unwrap();
            (plan.limits.workflows, plan.limits.executions_per_month)
        };
        assert_eq!(
            names(table.iter()),
            "lite, starter, growth, scale, enterprise"
        );
        assert_eq!(limit("lite"), (Some(3), Some(75_000)));
        assert_eq!(limit("scale"), (Some(200), Some(2_000_000)));
        assert_eq!(limit("enterprise"), (None, None));
        assert!(!table.get("starter").unwrap().features.custom_policies);
        assert!(table.get("growth").unwrap().features.custom_policies);
        assert_eq!(table.default_name(), "lite");
    }

    #[test]
    fn what_is_wrong_is_said_with_file_field_and_remedy() {
        let plan = "[[plan]]\nname = \"a\"\ntitle = \"A\"\n";
        for (text, words) in [
            ("default = ", "line 1"),
            ("default = \"a\"", "missing field `plan`"),
            (
                &format!("default = \"b\"\n{plan}"),
                "default: \"b\" is no plan of this file; use one of a",
            ),
            (
                &format!("default = \"a\"\n{plan}limits = {{ seat = 1 }}"),
                "plan[0].limits.seat (line 5): unknown field `seat`",
            ),
            (
                &format!("default = \"a\"\n{plan}limits = {{ seats = 0 }}"),
                "plan[0].limits.seats: must be at least 1",
            ),
            (
                &format!("default = \"a\"\n{plan}limits = {{ seats = \"x\" }}"),
                "plan[0].limits.seats (line 5): invalid type: string",
            ),
            (
                &format!("default = \"a\"\n{plan}{plan}"),
                "plan[1].name: another plan",
            ),
            (
                "default = \"A\"\n[[plan]]\nname = \"A\"\ntitle = \"A\"",
                "plan[0].name",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
            assert!(
                error.contains("p.toml") && error.contains("deploy/plans.toml"),
                "{error}"
            );
        }
    }
}
