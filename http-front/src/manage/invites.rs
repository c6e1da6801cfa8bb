//! `/orgs/{org_id}/invites`: inviting people by mail. The link's token is nowhere but in the mail; here
//! is only its hash. What became of the mail is told to the log, so that who invited sees it.

mod answers;

use super::auth::{RoleName, address, done, no_content, too_many_mails};
use super::{Admitted, List, Page, admit, id};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    BodyErrors, BusyError, ConflictError, InviteErrors, InvitePath, OrgErrors, OrgPath, PageQuery,
    PathError, QueryErrors,
};
use crate::sdk::decision::json_response;
use crate::sign_in::{Asked, Keys, Origin};
use crate::{clock, hash};
use axum::extract::{Path, Request, State};
use engine::directory::{Directory, InviteEntry, MailState, UserEntry};
use engine::limits;
use engine::manage::{Manage, NewInvite};
use http::StatusCode;
use persist::record::Role;
use persist::{InviteId, Millis, OrgId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index, create))
        .routes(routes!(revoke))
        .routes(routes!(resend))
        .merge(answers::routes())
}

/// Somebody to be invited.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InviteCreate)]
struct Create {
    #[schema(format = "email", max_length = 254, example = "grace@example.com")]
    email: String,
    role: RoleName,
}

/// An open invitation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invite)]
struct Shown {
    #[schema(example = "0198c5e2-5cd3-7a46-b7a2-4c9d1e2f3a4b")]
    id: String,
    #[schema(example = "grace@example.com")]
    email: String,
    role: RoleName,
    status: Status,
    send_status: SendStatus,
    /// The address of who invited; null if they have no account any more.
    #[schema(example = "ada@example.com")]
    invited_by: Option<String>,
    created_at: String,
    expires_at: String,
}

/// Can it be accepted?
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = InviteStatus)]
enum Status {
    /// It can.
    Pending,
    /// Its time is over; send it again, or take it back.
    Expired,
}

/// What became of the newest mail with its link.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = InviteSendStatus)]
enum SendStatus {
    /// It is under way, or tried again.
    Pending,
    /// The mail server has it, or the outbox.
    Sent,
    /// It was given up, or lost with a restart; send it again.
    Failed,
}

impl Shown {
    fn of(directory: &Directory, invite: &InviteEntry, now: Millis) -> Self {
        let inviter = directory.user(invite.invited_by);
        Self {
            id: invite.id.to_string(),
            email: invite.email.to_string(),
            role: RoleName::of(invite.role),
            status: match now < invite.expires_at {
                true => Status::Pending,
                false => Status::Expired,
            },
            send_status: match invite.mail {
                MailState::Pending => SendStatus::Pending,
                MailState::Sent => SendStatus::Sent,
                MailState::Failed => SendStatus::Failed,
            },
            invited_by: inviter.map(|user| user.email.to_string()),
            created_at: clock::rfc3339(invite.created_at),
            expires_at: clock::rfc3339(invite.expires_at),
        }
    }
}

/// The link of an invitation, whose token only the mail has.
struct Link {
    token: String,
    hash: [u8; 32],
    expires_at: Millis,
}

impl Link {
    fn new() -> Self {
        let token = hash::random_word(43);
        Self {
            hash: hash::sha256(token.as_bytes()),
            token,
            expires_at: clock::now().plus(limits::INVITE_MILLIS),
        }
    }
}

/// Mails the link and answers with the invitation; what becomes of the mail is noted behind the answer.
fn send(
    app: &Arc<App>,
    admitted: &Admitted,
    id: InviteId,
    link: Link,
    new: StatusCode,
) -> ApiResult {
    let directory = app.directory();
    let entry = directory.org(admitted.org);
    let invite = directory.invite(admitted.org, id);
    let (Some(org), Some(invite)) = (entry, invite) else {
        return Err(ApiError::not_found("invitation"));
    };
    let by = directory.user(invite.invited_by).map(|user| called(user));
    let by = by.unwrap_or_else(|| "Somebody".to_owned());
    // Behind `#`, it reaches no server and no server's log.
    let (url, token, role) = (
        app.public_url(),
        &link.token,
        RoleName::of(invite.role).word(),
    );
    let text = format!(
        "{by} invites you to the organization {} at {url}, as {role}.\n\n\
         Accept or decline here within seven days:\n{url}/invite#token={token}\n\n\
         If you do not know them, do nothing.\n",
        org.name
    );
    let subject = format!("An invitation to {}", org.name);
    let fate = app.mailer.send(&invite.email, &subject, text);
    // A task that waits must not keep a gateway that stops from stopping.
    let (app_then, org, hash) = (Arc::downgrade(app), org.id, link.hash);
    tokio::spawn(async move {
        let sent = fate.await;
        if let Some(app) = app_then.upgrade() {
            note(&app, org, id, hash, sent).await;
        }
    });
    Ok(json_response(
        new,
        &Shown::of(&directory, invite, clock::now()),
    ))
}

fn called(user: &UserEntry) -> String {
    match user.name.is_empty() {
        true => user.email.to_string(),
        false => format!("{} <{}>", user.name, user.email),
    }
}

async fn note(app: &App, org: OrgId, id: InviteId, token_hash: [u8; 32], sent: bool) {
    let note = Manage::NoteInviteMail {
        org,
        id,
        token_hash,
        sent,
    };
    match done(app, note).await {
        // It was answered or taken back meanwhile.
        Err(error) if error.status == StatusCode::NOT_FOUND => {}
        Err(error) => tracing::warn!(code = error.slug, "what became of a mail was not noted"),
        Ok(_) => {}
    }
}

/// Mails wait in memory: those that were under way when the last process ended are lost.
pub async fn note_lost_mails(app: &App) {
    let directory = app.directory();
    let invites = directory.orgs().flat_map(|org| {
        let ids = org.invites.iter();
        ids.filter_map(|id| directory.invite(org.id, *id))
    });
    let pending = invites.filter(|invite| invite.mail == MailState::Pending);
    let lost: Vec<_> = pending.map(|i| (i.org, i.id, i.token_hash)).collect();
    drop(directory);
    for (org, id, hash) in lost {
        note(app, org, id, hash, false).await;
    }
}

/// Mails to one address are few at a time, whoever is asked to send them.
fn admit_mail(app: &App, email: &str, origin: &Origin) -> ApiResult<()> {
    let admitted = app
        .mails
        .admit(Asked::Invite, email, origin.ip, clock::now());
    admitted.map_err(too_many_mails)
}

/// List open invitations, oldest first. Takes an admin.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/invites",
    operation_id = "list_invites",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath, PageQuery),
    responses((status = 200, description = "Invitations", body = List<Shown>), QueryErrors, OrgErrors)
)]
async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let admitted = admit(&app, &org, request, Role::Admin, Keys::Refused).await?;
    let page = Page::parse(query.as_deref(), &[])?;
    let directory = app.directory();
    let entry = directory
        .org(admitted.org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let (ids, next) = page.of(entry.invites.iter().copied())?;
    let now = clock::now();
    let shown = ids.iter();
    let shown = shown.filter_map(|id| directory.invite(admitted.org, *id));
    let shown = shown.map(|invite| Shown::of(&directory, invite, now));
    Ok(json_response(
        StatusCode::OK,
        &List::new(shown.collect(), next),
    ))
}

/// Invite somebody. A mail with a link goes out, which can be accepted or declined once, within seven
/// days. Takes an admin; only an owner invites owners. 409 `already_member`, or `invite_already_pending`
/// while the address has an open invitation.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/invites",
    operation_id = "create_invite",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    request_body = Create,
    responses(
        (status = 201, description = "Invited; the mail is on its way", body = Shown),
        BodyErrors, OrgErrors, BusyError, ConflictError, InviteErrors
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let origin = Origin::of(&request);
    let admitted = admit(&app, &org, request, Role::Admin, Keys::Refused).await?;
    let body: Create = admitted.received.json()?;
    let email = address("email", &body.email)?;
    admit_mail(&app, &email, &origin)?;
    let link = Link::new();
    let id = InviteId(hash::new_id(clock::now()));
    let invite = Manage::Invite {
        org: admitted.org,
        by: admitted.person()?,
        invite: NewInvite {
            id,
            email,
            role: body.role.kind(),
            token_hash: link.hash,
            expires_at: link.expires_at,
        },
    };
    done(&app, invite).await?;
    send(&app, &admitted, id, link, StatusCode::CREATED)
}

/// Take an invitation back: its link leads nowhere from the answer on. Takes an admin.
#[utoipa::path(
    delete,
    path = "/api/v1/orgs/{org_id}/invites/{invite_id}",
    operation_id = "revoke_invite",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(InvitePath),
    responses((status = 204, description = "Taken back"), PathError, OrgErrors, BusyError)
)]
async fn revoke(
    State(app): State<Arc<App>>,
    Path((org, invite)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Admin, Keys::Refused).await?;
    let revoke = Manage::RevokeInvite {
        org: admitted.org,
        by: admitted.person()?,
        id: id(&invite, "invitation")?,
    };
    done(&app, revoke).await?;
    Ok(no_content())
}

/// Send an invitation again, with another link and seven more days; the link before leads nowhere from
/// the answer on. Takes an admin; only an owner sends those of owners again.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/invites/{invite_id}/resend",
    operation_id = "resend_invite",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(InvitePath),
    responses(
        (status = 200, description = "The mail is on its way", body = Shown),
        PathError, OrgErrors, BusyError, InviteErrors
    )
)]
async fn resend(
    State(app): State<Arc<App>>,
    Path((org, invite)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let origin = Origin::of(&request);
    let admitted = admit(&app, &org, request, Role::Admin, Keys::Refused).await?;
    let id: InviteId = id(&invite, "invitation")?;
    let directory = app.directory();
    let before = directory.invite(admitted.org, id).cloned();
    drop(directory);
    let before = before.ok_or_else(|| ApiError::not_found("invitation"))?;
    admit_mail(&app, &before.email, &origin)?;
    let link = Link::new();
    let again = Manage::ResendInvite {
        org: admitted.org,
        by: admitted.person()?,
        id,
        token_hash: link.hash,
        expires_at: link.expires_at,
    };
    done(&app, again).await?;
    send(&app, &admitted, id, link, StatusCode::OK)
}
