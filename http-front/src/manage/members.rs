//! `/orgs/{org_id}/members`: who belongs to an organization, and as what.

use super::auth::RoleName;
use super::{List, Page, admit, done, id, no_content};
use crate::app::App;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    BodyErrors, BusyError, ConflictError, MemberPath, OrgErrors, OrgPath, PageQuery, PathError,
    QueryErrors,
};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use axum::extract::{Path, Request, State};
use engine::directory::{Directory, MemberEntry};
use engine::manage::Manage;
use http::StatusCode;
use persist::UserId;
use persist::record::Role;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index))
        .routes(routes!(set_role, remove))
}

/// Somebody who belongs to an organization.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Member)]
struct Shown {
    /// The person's id.
    #[schema(example = "0198c5e2-5cd3-7a46-b7a2-4c9d1e2f3a4b")]
    id: String,
    #[schema(example = "ada@example.com")]
    email: String,
    #[schema(example = "Ada")]
    name: String,
    role: RoleName,
    joined_at: String,
}

impl Shown {
    fn of(directory: &Directory, member: &MemberEntry) -> Option<Self> {
        let user = directory.user(member.user)?;
        Some(Self {
            id: user.id.to_string(),
            email: user.email.to_string(),
            name: user.name.to_string(),
            role: RoleName::of(member.role),
            joined_at: clock::rfc3339(member.joined_at),
        })
    }
}

/// Another role.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MemberPatch, example = json!({ "role": "operator" }))]
struct Patch {
    role: RoleName,
}

/// List who belongs to an organization, in the order they joined.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/members",
    operation_id = "list_members",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath, PageQuery),
    responses((status = 200, description = "Members", body = List<Shown>), QueryErrors, OrgErrors)
)]
async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let admitted = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let page = Page::parse(query.as_deref(), &[])?;
    let directory = app.directory();
    let entry = directory
        .org(admitted.org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let (ids, next) = page.of(entry.members.iter().map(|member| member.user))?;
    let members = entry.members.iter();
    let members = members.filter(|member| ids.contains(&member.user));
    let shown = members.filter_map(|member| Shown::of(&directory, member));
    Ok(json_response(
        StatusCode::OK,
        &List::new(shown.collect(), next),
    ))
}

/// Give a member another role. Takes an admin; only an owner makes or changes owners. 409
/// `cannot_modify_own_role` for oneself, `cannot_demote_last_owner` for the last owner.
#[utoipa::path(
    patch,
    path = "/api/v1/orgs/{org_id}/members/{member_id}",
    operation_id = "update_member",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(MemberPath),
    request_body = Patch,
    responses(
        (status = 200, description = "The member, in that role from now on", body = Shown),
        BodyErrors, OrgErrors, BusyError, ConflictError
    )
)]
async fn set_role(
    State(app): State<Arc<App>>,
    Path((org, member)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Admin, Keys::Refused).await?;
    let body: Patch = admitted.received.json()?;
    let user: UserId = id(&member, "member")?;
    let change = Manage::SetRole {
        org: admitted.org,
        by: admitted.person()?,
        user,
        role: body.role.kind(),
    };
    done(&app, change).await?;
    let directory = app.directory();
    let entry = directory.org(admitted.org);
    let mut members = entry.iter().flat_map(|entry| entry.members.iter());
    let member = members.find(|member| member.user == user);
    let shown = member.and_then(|member| Shown::of(&directory, member));
    let shown = shown.ok_or_else(|| ApiError::not_found("member"))?;
    Ok(json_response(StatusCode::OK, &shown))
}

/// Remove a member: all their sessions end with the answer. Takes an admin; only an owner removes
/// owners, and never the last one (409 `cannot_demote_last_owner`). Anybody may leave by removing
/// themselves, and stays signed in.
#[utoipa::path(
    delete,
    path = "/api/v1/orgs/{org_id}/members/{member_id}",
    operation_id = "remove_member",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(MemberPath),
    responses(
        (status = 204, description = "Removed"),
        PathError, OrgErrors, BusyError, ConflictError
    )
)]
async fn remove(
    State(app): State<Arc<App>>,
    Path((org, member)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    // Who may remove whom is the engine's to say: leaving takes no role.
    let admitted = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let change = Manage::RemoveMember {
        org: admitted.org,
        by: admitted.person()?,
        user: id(&member, "member")?,
    };
    done(&app, change).await?;
    Ok(no_content())
}
