//! Who am I, and where am I signed in: `GET /auth/session`, `/auth/sessions`, `PATCH /auth/user`.

use super::{Membership, Person, done, memberships, no_content};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::manage::{List, Page, id};
use crate::openapi::{
    BodyErrors, BusyError, NotFoundError, PageQuery, PathError, QueryErrors, SessionErrors,
    SessionPath,
};
use crate::sdk::decision::json_response;
use crate::sign_in;
use crate::{clock, request};
use axum::extract::{Path, Request, State};
use engine::manage::Manage;
use http::StatusCode;
use persist::SessionId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(current))
        .routes(routes!(rename))
        .routes(routes!(index, end_others))
        .routes(routes!(end))
}

/// Who is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = CurrentSession)]
struct Current {
    user: Person,
    organizations: Vec<Membership>,
    session_id: String,
    expires_at: String,
    /// For `X-CSRF-Token`, if the session came in a cookie; null for a Bearer token, which needs none.
    csrf_token: Option<String>,
}

/// A place where a person is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct Shown {
    id: String,
    /// The one that asks.
    current: bool,
    /// The address it was opened from; of a proxy, if one stands before the gateway.
    ip: String,
    /// What it was opened with, as that called itself.
    user_agent: String,
    created_at: String,
    expires_at: String,
}

/// What changes in a person.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserPatch)]
struct Patch {
    /// An empty one is none.
    #[schema(
        max_length = 255,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        example = "Ada Lovelace"
    )]
    name: Option<String>,
}

/// Who am I?
#[utoipa::path(
    get,
    path = "/api/v1/auth/session",
    operation_id = "get_session",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    responses((status = 200, description = "Who is signed in", body = Current), SessionErrors)
)]
async fn current(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let signed_in = sign_in::person(&app, &received)?;
    let shown = Current {
        user: Person::of(&signed_in.user),
        organizations: memberships(&app.directory(), &signed_in.user),
        session_id: signed_in.session.id.to_string(),
        expires_at: clock::rfc3339(signed_in.session.expires_at),
        csrf_token: signed_in.csrf,
    };
    Ok(json_response(StatusCode::OK, &shown))
}

/// Take another name.
#[utoipa::path(
    patch,
    path = "/api/v1/auth/user",
    operation_id = "update_user",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    request_body = Patch,
    responses(
        (status = 200, description = "As it is now", body = Person),
        BodyErrors, SessionErrors, BusyError
    )
)]
async fn rename(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let user = sign_in::person(&app, &received)?.user.id;
    let body: Patch = received.json()?;
    if let Some(name) = body.name {
        let name = name.trim().to_owned();
        done(&app, Manage::RenameUser { user, name }).await?;
    }
    let person = app.directory().user(user).cloned();
    let person = person.ok_or_else(|| ApiError::not_found("user"))?;
    Ok(json_response(StatusCode::OK, &Person::of(&person)))
}

/// List where I am signed in, oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/auth/sessions",
    operation_id = "list_sessions",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    params(PageQuery),
    responses(
        (status = 200, description = "Open sessions", body = List<Shown>),
        QueryErrors, SessionErrors
    )
)]
async fn index(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let received = request::receive(request).await?;
    let signed_in = sign_in::person(&app, &received)?;
    let page = Page::parse(query.as_deref(), &[])?;
    let directory = app.directory();
    let open: Vec<_> = directory
        .sessions_of(signed_in.user.id, clock::now())
        .collect();
    let (ids, next) = page.of(open.iter().map(|session| session.id))?;
    let shown = open.iter().filter(|session| ids.contains(&session.id));
    let shown = shown.map(|session| Shown {
        id: session.id.to_string(),
        current: session.id == signed_in.session.id,
        ip: session.ip.to_string(),
        user_agent: session.user_agent.to_string(),
        created_at: clock::rfc3339(session.created_at),
        expires_at: clock::rfc3339(session.expires_at),
    });
    let list = List::new(shown.collect::<Vec<_>>(), next);
    Ok(json_response(StatusCode::OK, &list))
}

/// End one of my sessions; whatever holds its token is refused at once.
#[utoipa::path(
    delete,
    path = "/api/v1/auth/sessions/{session_id}",
    operation_id = "delete_session",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    params(SessionPath),
    responses(
        (status = 204, description = "It is over"),
        PathError, SessionErrors, BusyError, NotFoundError
    )
)]
async fn end(
    State(app): State<Arc<App>>,
    Path(session): Path<String>,
    request: Request,
) -> ApiResult {
    let received = request::receive(request).await?;
    let signed_in = sign_in::person(&app, &received)?;
    let session: SessionId = id(&session, "session")?;
    let user = signed_in.user.id;
    done(&app, Manage::EndSession { user, session }).await?;
    let mut response = no_content();
    if session == signed_in.session.id {
        app.cookies.sign_out(&mut response);
    }
    Ok(response)
}

/// End all my sessions but this one.
#[utoipa::path(
    delete,
    path = "/api/v1/auth/sessions",
    operation_id = "delete_other_sessions",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    responses((status = 204, description = "The others are over"), SessionErrors, BusyError)
)]
async fn end_others(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let signed_in = sign_in::person(&app, &received)?;
    let end = Manage::EndSessions {
        user: signed_in.user.id,
        but: Some(signed_in.session.id),
    };
    done(&app, end).await?;
    Ok(no_content())
}
