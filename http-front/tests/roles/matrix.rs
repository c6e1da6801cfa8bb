//! Reads `matrix.txt`.

#![allow(
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

use hyper::Method;
use serde_json::Value;

/// Who asks; the columns, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Anonymous,
    Key,
    Viewer,
    Operator,
    Admin,
    Owner,
    Platform,
}

pub const CALLERS: [Who; 7] = [
    Who::Anonymous,
    Who::Key,
    Who::Viewer,
    Who::Operator,
    Who::Admin,
    Who::Owner,
    Who::Platform,
];

/// Whose things are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Own,
    Other,
}

/// A route, and what comes of it for whom.
pub struct Row {
    pub method: Method,
    pub path: String,
    /// With words such as `$workflow` where an id belongs.
    pub body: Option<Value>,
    pub expected: Vec<(Whose, Vec<String>)>,
}

impl Row {
    /// A row to begin with, for a route that has none.
    pub fn suggest(method: &Method, path: &str) -> String {
        let org = path.contains("/orgs/{org");
        let path = path.replace("{org}", "{org_id}");
        let body = match *method {
            Method::POST | Method::PATCH | Method::PUT => "\n    {\"field\": \"$workflow\"}",
            _ => "",
        };
        let outcomes = match org {
            true => "401 403 200 200 200 200 200 | 401 403 404 404 404 404 404",
            false => "401 403 200 200 200 200 200",
        };
        format!("{:<6} {path:<58} {outcomes}{body}", method.as_str())
    }

    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let method = words.next().and_then(|word| word.parse().ok());
        let path = words.next().map(str::to_owned);
        let (Some(method), Some(path)) = (method, path) else {
            panic!("a row begins with a method and a path: {line}");
        };
        let rest: Vec<_> = words.collect();
        let groups = rest.split(|word| *word == "|");
        let expected = [Whose::Own, Whose::Other].into_iter().zip(groups);
        let expected: Vec<(Whose, Vec<String>)> = expected
            .map(|(whose, group)| (whose, group.iter().map(|w| (*w).to_owned()).collect()))
            .collect();
        for (whose, group) in &expected {
            let count = group.len();
            assert_eq!(
                count,
                CALLERS.len(),
                "{whose:?} has {count} columns: {line}"
            );
        }
        Self {
            method,
            path,
            body: None,
            expected,
        }
    }
}

/// All rows.
pub fn matrix() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in include_str!("matrix.txt").lines() {
        let indented = line.starts_with(' ');
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match rows.last_mut() {
            Some(row) if indented => {
                let body = serde_json::from_str(line);
                row.body = Some(body.unwrap_or_else(|error| panic!("{line}: {error}")));
            }
            _ => rows.push(Row::parse(line)),
        }
    }
    rows
}
