//! What people do: sign up and in, workflows, policies, keys, the org and its ledger.

pub mod admin;
pub mod auth;
pub mod caps;
pub mod holds;
pub mod invites;
pub mod keys;
pub mod ledger;
pub mod members;
mod once;
pub mod orgs;
pub mod plans;
pub mod policies;
pub mod price_shapes;
pub mod status;
pub mod workflows;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::request::{self, Received};
use crate::sign_in::{self, Keys, Principal};
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use engine::command::{Command, Outcome, Reply};
use engine::manage::{Manage, Managed};
use http::StatusCode;
use persist::record::{Actor, Role};
use persist::{Nanos, OrgId, UserId};
use serde::{Deserialize, Deserializer, Serialize};
use std::str::FromStr;
use utoipa::ToSchema;

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

    /// The person, on a route that keys may not use.
    pub fn person(&self) -> ApiResult<UserId> {
        match &self.principal {
            Principal::Member(user) => Ok(user.id),
            Principal::Key(_) => Err(sign_in::not_for_keys()),
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
    let principal = sign_in::org(app, &received, org, least, keys)?;
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

/// Makes a change; whoever wants to show what it made looks afterwards.
pub(crate) async fn done(app: &App, change: Manage) -> ApiResult<Box<Managed>> {
    let reply = app.call(Command::Manage(Box::new(change))).await?;
    match reply.outcome {
        Outcome::Managed(managed) => Ok(managed),
        _ => Err(unexpected(&reply)),
    }
}

/// 204.
pub(crate) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// A query's `limit`, `cursor` and filters.
#[derive(Debug)]
pub struct Page {
    limit: usize,
    /// The query says how many.
    limited: bool,
    cursor: Option<String>,
    filters: Vec<(String, String)>,
}

const PAGE: usize = 50;
const PAGE_MOST: usize = 200;
/// Bytes of a text that is searched for.
const SEARCH_BYTES: usize = 100;

impl Page {
    /// From a query string. Fields that mean nothing to this list are refused: a filter that is
    /// misspelt must not show everything.
    pub fn parse(query: Option<&str>, filters: &[&str]) -> ApiResult<Self> {
        let mut page = Self {
            limit: PAGE,
            limited: false,
            cursor: None,
            filters: Vec::new(),
        };
        let fields: Vec<(String, String)> = serde_urlencoded::from_str(query.unwrap_or_default())
            .map_err(|_| {
            ApiError::field("query", "the query must be name=value pairs in UTF-8")
        })?;
        for (name, value) in fields {
            match name.as_str() {
                "limit" => {
                    page.limited = true;
                    page.limit = value
                        .parse()
                        .ok()
                        .filter(|n| (1..=PAGE_MOST).contains(n))
                        .ok_or_else(|| {
                            ApiError::field("limit", format!("limit must be 1 to {PAGE_MOST}"))
                        })?;
                }
                "cursor" => page.cursor = Some(value),
                name if filters.contains(&name) => page.filters.push((name.to_owned(), value)),
                name => {
                    let known: Vec<_> = filters
                        .iter()
                        .chain(&["limit", "cursor"])
                        .copied()
                        .collect();
                    return Err(ApiError::field(
                        &crate::text::cut(name.to_owned(), SEARCH_BYTES),
                        format!("this list takes {}", known.join(", ")),
                    ));
                }
            }
        }
        Ok(page)
    }

    /// So many, if the query does not say how many.
    #[must_use]
    pub const fn or_so_many(mut self, limit: usize) -> Self {
        if !self.limited {
            self.limit = limit;
        }
        self
    }

    /// How many.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Where the page before ended.
    pub fn cursor<T: FromStr>(&self) -> ApiResult<Option<T>> {
        let parse = |text: &String| text.parse().map_err(|_| Self::bad_cursor());
        self.cursor.as_ref().map(parse).transpose()
    }

    /// The cursor is not one of this list.
    #[must_use]
    pub fn bad_cursor() -> ApiError {
        ApiError::field(
            "cursor",
            "this cursor is not one of this list; begin again without",
        )
    }

    /// A filter.
    #[must_use]
    pub fn filter(&self, name: &str) -> Option<&str> {
        let found = self.filters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The text that is searched for, in lower case.
    pub fn search(&self) -> ApiResult<Option<String>> {
        let Some(text) = self.filter("search").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        if text.len() > SEARCH_BYTES {
            return Err(ApiError::field(
                "search",
                format!("search may have {SEARCH_BYTES} bytes"),
            ));
        }
        Ok(Some(text.to_lowercase()))
    }

    /// One page of `items`, and the cursor of the next.
    pub fn of<T: FromStr + PartialEq + ToString + Copy>(
        &self,
        items: impl Iterator<Item = T>,
    ) -> ApiResult<(Vec<T>, Option<String>)> {
        let mut items = items.peekable();
        if let Some(cursor) = self.cursor::<T>()?
            && !items.any(|item| item == cursor)
        {
            return Err(Self::bad_cursor());
        }
        let page: Vec<T> = items.by_ref().take(self.limit).collect();
        let next = page
            .last()
            .filter(|_| items.peek().is_some())
            .map(ToString::to_string);
        Ok((page, next))
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    data: Vec<T>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A page, and the cursor of the next.
    #[must_use]
    pub const fn new(data: Vec<T>, next_cursor: Option<String>) -> Self {
        Self { data, next_cursor }
    }
}
