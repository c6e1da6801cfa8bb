//! What people do: sign up and in, workflows, policies, keys, the org and its ledger.

pub mod auth;
pub mod keys;
pub mod orgs;
pub mod policies;
pub mod workflows;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::request::{self, Received};
use crate::sign_in::{self, Keys, Principal};
use axum::extract::Request;
use engine::command::Reply;
use persist::record::{Actor, Role};
use persist::{Nanos, OrgId};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::str::FromStr;

/// A request about an org by somebody who may make it.
#[derive(Debug)]
pub struct Admitted {
    /// The org.
    pub org: OrgId,
    /// Who.
    pub principal: Principal,
    /// The request.
    pub received: Received,
}

impl Admitted {
    /// For the log.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match &self.principal {
            Principal::Member(user) => Actor::User(user.id),
            Principal::Key(key) => Actor::Key(key.id),
        }
    }
}

/// Receives a request and checks who makes it.
pub async fn admit(
    app: &App,
    org: &str,
    request: Request,
    least: Role,
    keys: Keys,
) -> ApiResult<Admitted> {
    let received = request::receive(request).await?;
    // An id that cannot be one is the id of no org.
    let org = org.parse().unwrap_or(OrgId(0));
    let Received {
        headers,
        path,
        body,
    } = &received;
    let principal = sign_in::org(app, headers, path, body, org, least, keys)?;
    Ok(Admitted {
        org,
        principal,
        received,
    })
}

/// Reads an id out of a path: what is no id names nothing.
pub fn id<T: FromStr>(text: &str, what: &str) -> ApiResult<T> {
    text.parse().map_err(|_| ApiError::not_found(what))
}

/// An absent field is `None`, null is `Some(None)`.
pub fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Cents of the wire as money; the engine checks the bounds.
#[must_use]
pub fn cents(value: Option<i64>) -> Option<Nanos> {
    value.map(|cents| {
        // Saturating at the ends keeps what is out of bounds out of bounds.
        Nanos::from_cents(cents)
    })
}

/// The engine answered something else than was asked: a bug, not the caller's fault.
#[must_use]
pub fn unexpected(_reply: &Reply) -> ApiError {
    ApiError::new(
        http::StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "the engine gave another kind of answer",
    )
}

/// A query's `limit` and `cursor`.
#[derive(Debug)]
pub struct Page {
    limit: usize,
    cursor: Option<String>,
}

const PAGE: usize = 50;
const PAGE_MOST: usize = 200;

impl Page {
    /// From a query string.
    pub fn parse(query: Option<&str>) -> ApiResult<Self> {
        let mut page = Self {
            limit: PAGE,
            cursor: None,
        };
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("limit", value) => {
                    page.limit = value
                        .parse()
                        .ok()
                        .filter(|n| (1..=PAGE_MOST).contains(n))
                        .ok_or_else(|| {
                            ApiError::field("limit", format!("limit must be 1 to {PAGE_MOST}"))
                        })?;
                }
                ("cursor", value) => page.cursor = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(page)
    }

    /// One page of `items`, and the cursor of the next.
    pub fn of<T: ToString + Clone>(
        &self,
        items: impl Iterator<Item = T>,
    ) -> ApiResult<(Vec<T>, Option<String>)> {
        let mut items = items.peekable();
        if let Some(cursor) = &self.cursor
            && !items.any(|item| item.to_string() == *cursor)
        {
            return Err(ApiError::field(
                "cursor",
                "this cursor is not one of this list; begin again without",
            ));
        }
        let page: Vec<T> = items.by_ref().take(self.limit).collect();
        let next = page
            .last()
            .filter(|_| items.peek().is_some())
            .map(ToString::to_string);
        Ok((page, next))
    }
}

/// A list on the wire.
#[must_use]
pub fn list(data: Vec<Value>, next_cursor: Option<String>) -> Value {
    json!({ "data": data, "next_cursor": next_cursor })
}
