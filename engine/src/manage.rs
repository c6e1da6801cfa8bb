//! Changes to the directory: what they need, what they refuse, and the record they become.

mod accounts;
mod check;
mod keys;
mod members;
mod patch;
mod people;
mod policies;
mod prices;
mod templates;
mod workflows;

pub use accounts::PasswordProof;
pub use keys::{KeyTexts, NewKey};
pub use members::{Answer, NewInvite, NewOrg, Newcomer, role_too_low, role_word};
pub use patch::{OverdraftPatch, WatchPatch};
pub use people::{Account, NewSession, Registration, SignInProof};
pub use policies::{PRIORITY, PolicyDraft, PolicyPatch, Terms, TermsPatch, draft_rules};
pub use prices::NewPrice;
pub use templates::{CATALOG, Template, TemplateTerms};
pub use workflows::{WorkflowPatch, WorkflowSettings};

use crate::directory::{Directory, KeyEntry, OrgEntry};
use crate::limits;
use crate::plan::{Feature, PlanTable};
use crate::rules::Compiled;
use check::{bounded, budget, text};
use persist::record::{Actor, Change, Composition, DirectoryRecord, Org, PeriodKind, Role, Token};
use persist::{InviteId, KeyId, Millis, Nanos, OrgId, PolicyId, SessionId, UserId, WorkflowId};
use std::sync::Arc;

/// A change somebody asks for. Ids, hashes and times are made at the edge.
#[derive(Debug)]
pub enum Manage {
    /// A person signs up with an org, a first workflow, a key and a session of their own.
    Register(Box<Registration>),
    /// A person signed in. Beyond so many sessions the oldest end.
    OpenSession {
        /// The session.
        session: NewSession,
        /// What was shown.
        proof: SignInProof,
    },
    /// A session ends before its time.
    EndSession {
        /// Whose.
        user: UserId,
        /// Which.
        session: SessionId,
    },
    /// All sessions of a person end, but one perhaps.
    EndSessions {
        /// Whose.
        user: UserId,
        /// The one that goes on.
        but: Option<SessionId>,
    },
    /// A person has another name.
    RenameUser {
        /// Who.
        user: UserId,
        /// The name.
        name: String,
    },
    /// A person has another password; their other sessions end.
    SetPassword {
        /// Who.
        user: UserId,
        /// Argon2id, PHC form.
        password_hash: String,
        /// What allows it.
        proof: PasswordProof,
    },
    /// A link is mailed. Beyond so many of a kind the person's oldest work no more.
    AddToken(Token),
    /// A person who is signed in showed that the address is theirs.
    VerifyEmail {
        /// Who is signed in.
        user: UserId,
        /// The mailed link; it is used up.
        token: [u8; 32],
    },
    /// A person may sign in through a provider's account, which shows that the address is theirs.
    /// Nobody had shown that before: then password and sessions, perhaps a stranger's, end.
    AddIdentity {
        /// Who.
        user: UserId,
        /// Which.
        account: Account,
    },
    /// A new workflow.
    CreateWorkflow {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Its id.
        id: WorkflowId,
        /// What it is.
        settings: WorkflowSettings,
    },
    /// Other settings for a workflow.
    PatchWorkflow {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: WorkflowId,
        /// What changes.
        patch: WorkflowPatch,
    },
    /// A further org of somebody who has an account.
    CreateOrg(Box<NewOrg>),
    /// Other settings for an org.
    PatchOrg {
        /// Which.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// What changes.
        patch: OrgPatch,
    },
    /// An org goes, with all that is in it.
    RemoveOrg {
        /// Which.
        org: OrgId,
        /// By whom.
        by: UserId,
    },
    /// A member has another role.
    SetRole {
        /// Where.
        org: OrgId,
        /// By whom.
        by: UserId,
        /// Who.
        user: UserId,
        /// Which.
        role: Role,
    },
    /// A member is removed, and their sessions end; or leaves, and stays signed in.
    RemoveMember {
        /// Where.
        org: OrgId,
        /// By whom.
        by: UserId,
        /// Who.
        user: UserId,
    },
    /// Somebody is invited.
    Invite {
        /// Where.
        org: OrgId,
        /// By whom.
        by: UserId,
        /// The invitation.
        invite: NewInvite,
    },
    /// An invitation gets another link.
    ResendInvite {
        /// Where.
        org: OrgId,
        /// By whom.
        by: UserId,
        /// Which.
        id: InviteId,
        /// SHA-256 of the token in the new link.
        token_hash: [u8; 32],
        /// Until when it works.
        expires_at: Millis,
    },
    /// It is known what became of an invitation's mail.
    NoteInviteMail {
        /// Where.
        org: OrgId,
        /// Which.
        id: InviteId,
        /// SHA-256 of the token in that mail.
        token_hash: [u8; 32],
        /// Did it go out?
        sent: bool,
    },
    /// An invitation is taken back.
    RevokeInvite {
        /// Where.
        org: OrgId,
        /// By whom.
        by: UserId,
        /// Which.
        id: InviteId,
    },
    /// Somebody who has an invitation's link answers it.
    AnswerInvite {
        /// SHA-256 of the token in the link.
        token_hash: [u8; 32],
        /// How.
        answer: Answer,
    },
    /// A new policy.
    CreatePolicy {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Its id.
        id: PolicyId,
        /// What it says.
        draft: PolicyDraft,
    },
    /// A policy says something else now.
    PatchPolicy {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: PolicyId,
        /// What changes.
        patch: PolicyPatch,
    },
    /// A policy is switched on or off.
    TogglePolicy {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: PolicyId,
        /// On or off; the other way round if absent.
        active: Option<bool>,
    },
    /// A template becomes a policy, if it is none yet.
    EnableTemplate {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// The policy's id, should one be made.
        id: PolicyId,
        /// Which.
        template: String,
        /// What it says otherwise.
        terms: TemplateTerms,
    },
    /// The policy of a template goes, if there is one.
    DisableTemplate {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        template: String,
    },
    /// A policy goes.
    DeletePolicy {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: PolicyId,
    },
    /// A new key.
    CreateKey {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// What it is.
        key: NewKey,
    },
    /// A key has a new text and secret; the ones before work for a while.
    RotateKey {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: KeyId,
        /// The new ones.
        texts: KeyTexts,
        /// Until when the ones before work too.
        previous_until: Millis,
    },
    /// A key was used: told at most once an hour.
    KeyUsed {
        /// Which.
        id: KeyId,
    },
    /// A key is refused from now on.
    RevokeKey {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: KeyId,
    },
    /// A model has another price.
    SetPrice {
        /// By whom.
        actor: Actor,
        /// What.
        price: NewPrice,
    },
}

/// What changes in an org; absent stays.
#[derive(Debug, Clone, Default)]
pub struct OrgPatch {
    /// Name.
    pub name: Option<String>,
    /// Where to write to about it.
    pub contact_email: Option<String>,
    /// Plan: only for who runs the gateway.
    pub plan: Option<String>,
    /// Cap; `Some(None)` takes it off.
    pub budget: Option<Option<Nanos>>,
    /// The period of that cap.
    pub period: Option<PeriodKind>,
    /// How its policies combine.
    pub composition: Option<Composition>,
}

/// What a change made.
#[derive(Debug)]
pub enum Managed {
    /// Nothing to show beyond what the caller knows.
    Done,
    /// An org.
    Org(Arc<OrgEntry>),
    /// A key.
    Key(Arc<KeyEntry>),
    /// A policy.
    Policy(Arc<Compiled>),
    /// A workflow: shown with its money by the caller's next question, to its shard.
    Workflow(WorkflowId),
}

/// Why a command cannot be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing here.
    NotFound(&'static str),
    /// It clashes with what is there.
    Conflict {
        /// Slug.
        code: &'static str,
        /// Sentence.
        message: String,
    },
    /// A field is wrong.
    Invalid {
        /// Slug.
        code: &'static str,
        /// Which.
        field: &'static str,
        /// Sentence with the bound and the remedy.
        message: String,
    },
    /// The thing's state does not allow it.
    WrongState(String),
    /// Not for this person.
    Forbidden(String),
    /// The password that was verified is not the person's any more.
    OldPassword,
    /// The plan has no room for one more.
    Limit {
        /// Slug.
        code: &'static str,
        /// Of what.
        resource: &'static str,
        /// How many there are.
        current: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The plan does not have it.
    Feature {
        /// What.
        feature: &'static str,
        /// The plan's title.
        plan: String,
        /// The titles of the plans that have it.
        plans: Vec<String>,
    },
}

/// What a change is decided with.
#[derive(Debug, Clone, Copy)]
pub struct Desk<'a> {
    /// With every change so far.
    pub directory: &'a Directory,
    /// Plans.
    pub plans: &'a PlanTable,
    /// The time.
    pub now: Millis,
}

impl<'a> Desk<'a> {
    fn org(&self, id: OrgId) -> Result<&'a OrgEntry, Refusal> {
        let org = self.directory.org(id);
        org.map(AsRef::as_ref)
            .ok_or(Refusal::NotFound("organization"))
    }

    /// Does the org's plan have this?
    fn needs(&self, org: &OrgEntry, feature: Feature) -> Result<(), Refusal> {
        let plan = self.plans.of(&org.plan);
        if plan.has(feature) {
            return Ok(());
        }
        let others = self.plans.iter().filter(|plan| plan.has(feature));
        Err(Refusal::Feature {
            feature: feature.name(),
            plan: plan.title.clone(),
            plans: others.map(|plan| plan.title.clone()).collect(),
        })
    }
}

/// Decides a change: the closure gets the record that makes it, or the refusal comes back.
pub fn decide<T>(
    desk: Desk<'_>,
    manage: &Manage,
    then: impl FnOnce(DirectoryRecord<'_>) -> T,
) -> Result<T, Refusal> {
    let mut patched = Patched::default();
    let (actor, changes) = changes(desk, manage, &mut patched)?;
    Ok(then(DirectoryRecord {
        at: desk.now,
        actor,
        changes,
    }))
}

/// What a patch makes of a thing: its record borrows from here.
#[derive(Default)]
struct Patched {
    settings: Option<WorkflowSettings>,
    draft: Option<PolicyDraft>,
}

fn changes<'a>(
    desk: Desk<'a>,
    manage: &'a Manage,
    patched: &'a mut Patched,
) -> Result<(Actor, Vec<Change<'a>>), Refusal> {
    let Desk {
        directory,
        plans,
        now,
    } = desk;
    Ok(match manage {
        Manage::Register(new) => (Actor::User(new.user), people::register(desk, new)?),
        Manage::OpenSession { session, proof } => (
            Actor::User(session.user),
            people::open_session(directory, now, session, proof)?,
        ),
        Manage::EndSession { user, session } => {
            let mut theirs = directory.sessions_of(*user, now);
            let found = theirs.any(|known| known.id == *session);
            if !found {
                return Err(Refusal::NotFound("session"));
            }
            let ended = Change::SessionEnded {
                user: *user,
                session: *session,
            };
            (Actor::User(*user), vec![ended])
        }
        Manage::EndSessions { user, but } => {
            let (user, but) = (*user, *but);
            let ended = Change::SessionsEnded { user, but };
            (Actor::User(user), vec![ended])
        }
        Manage::RenameUser { user, name } => {
            let before = people::user(directory, *user)?;
            (Actor::User(*user), vec![people::rename(before, name)?])
        }
        Manage::SetPassword {
            user,
            password_hash,
            proof,
        } => (
            Actor::User(*user),
            accounts::set_password(directory, now, *user, password_hash, proof)?,
        ),
        Manage::AddToken(token) => (
            Actor::User(token.user),
            accounts::add_token(directory, now, token),
        ),
        Manage::VerifyEmail { user, token } => {
            let verified = accounts::verify_email(directory, now, *user, *token)?;
            (Actor::User(*user), verified)
        }
        Manage::AddIdentity { user, account } => (
            Actor::User(*user),
            accounts::link(directory, now, *user, account)?,
        ),
        Manage::CreateWorkflow {
            org,
            actor,
            id,
            settings,
        } => {
            workflows::check_workflow(directory, *org, None, settings)?;
            let entry = desk.org(*org)?;
            let plan = plans.of(&entry.plan);
            workflows::room(entry, plan)?;
            if settings.approvals == Some(true) {
                desk.needs(entry, Feature::Approvals)?;
            }
            let workflow = workflows::workflow_record(*org, *id, settings, plan, now, now);
            (*actor, vec![Change::WorkflowAdded(workflow)])
        }
        Manage::PatchWorkflow {
            org,
            actor,
            id,
            patch,
        } => {
            let before = directory
                .workflow(*org, *id)
                .ok_or(Refusal::NotFound("workflow"))?;
            let settings = workflows::patched(before, patch)?;
            let settings = patched.settings.insert(settings);
            workflows::check_workflow(directory, *org, Some(*id), settings)?;
            let entry = desk.org(*org)?;
            if patch.approvals == Some(true) && !before.rare().approvals {
                desk.needs(entry, Feature::Approvals)?;
            }
            let (plan, made) = (plans.of(&entry.plan), before.created_at);
            let after = workflows::workflow_record(*org, *id, settings, plan, made, now);
            (*actor, vec![Change::WorkflowChanged(after)])
        }
        Manage::CreateOrg(new) => (Actor::User(new.by), members::found(desk, new)?),
        Manage::PatchOrg { org, actor, patch } => {
            let before = desk.org(*org)?;
            (
                *actor,
                vec![Change::OrgChanged(patched_org(desk, before, patch)?)],
            )
        }
        Manage::RemoveOrg { org, by } => (
            Actor::User(*by),
            vec![members::remove_org(desk.org(*org)?, *by)?],
        ),
        Manage::SetRole {
            org,
            by,
            user,
            role,
        } => {
            let changed = members::set_role(desk.org(*org)?, *by, *user, *role)?;
            (Actor::User(*by), vec![changed])
        }
        Manage::RemoveMember { org, by, user } => (
            Actor::User(*by),
            members::remove_member(desk.org(*org)?, *by, *user)?,
        ),
        Manage::Invite { org, by, invite } => {
            let entry = desk.org(*org)?;
            (Actor::User(*by), members::invite(desk, entry, *by, invite)?)
        }
        Manage::ResendInvite {
            org,
            by,
            id,
            token_hash,
            expires_at,
        } => {
            let entry = desk.org(*org)?;
            let link = members::NewLink {
                token_hash: *token_hash,
                expires_at: *expires_at,
            };
            let changed = members::resend(desk, entry, *by, *id, link)?;
            (Actor::User(*by), vec![changed])
        }
        Manage::NoteInviteMail {
            org,
            id,
            token_hash,
            sent,
        } => {
            let (org, invite) = (*org, *id);
            let found = directory.invite(org, invite);
            found.ok_or(Refusal::NotFound("invitation"))?;
            let noted = Change::InviteMailed {
                org,
                invite,
                token_hash: *token_hash,
                sent: *sent,
            };
            (Actor::System, vec![noted])
        }
        Manage::RevokeInvite { org, by, id } => {
            let ended = members::revoke(directory, desk.org(*org)?, *by, *id)?;
            (Actor::User(*by), vec![ended])
        }
        Manage::AnswerInvite { token_hash, answer } => {
            let actor = match answer {
                Answer::Accept(user) => Actor::User(*user),
                Answer::Register(new) => Actor::User(new.user),
                Answer::Decline => Actor::System,
            };
            (actor, members::answer(directory, now, token_hash, answer)?)
        }
        Manage::CreatePolicy {
            org,
            actor,
            id,
            draft,
        } => {
            policies::admit(desk, desk.org(*org)?, *id, None, draft)?;
            let added = policies::policy_record(*org, *id, draft, 1, now, now);
            (*actor, vec![Change::PolicyAdded(added)])
        }
        Manage::PatchPolicy {
            org,
            actor,
            id,
            patch,
        } => {
            let entry = directory.org(*org).ok_or(Refusal::NotFound("policy"))?;
            let before = entry.rules.get(*id).ok_or(Refusal::NotFound("policy"))?;
            let draft = patched.draft.insert(policies::patched(before, patch)?);
            policies::admit(desk, entry, *id, Some(before), draft)?;
            let after = policies::changed(*org, before, draft, now);
            let changes = after.map(Change::PolicyChanged).into_iter().collect();
            (*actor, changes)
        }
        Manage::TogglePolicy {
            org,
            actor,
            id,
            active,
        } => {
            let entry = directory.org(*org).ok_or(Refusal::NotFound("policy"))?;
            let before = entry.rules.get(*id).ok_or(Refusal::NotFound("policy"))?;
            let patch = PolicyPatch {
                is_active: Some(active.unwrap_or(!before.is_active)),
                ..PolicyPatch::default()
            };
            let draft = patched.draft.insert(policies::patched(before, &patch)?);
            // What it says was looked at before: whatever it is, it can be switched off.
            policies::features(desk, entry, Some(before), draft)?;
            let after = policies::changed(*org, before, draft, now);
            let changes = after.map(Change::PolicyChanged).into_iter().collect();
            (*actor, changes)
        }
        Manage::EnableTemplate {
            org,
            actor,
            id,
            template,
            terms,
        } => {
            let entry = desk.org(*org)?;
            let Some(draft) = templates::enable(entry, template, *terms)? else {
                return Ok((*actor, Vec::new()));
            };
            let draft = patched.draft.insert(draft);
            policies::admit(desk, entry, *id, None, draft)?;
            let added = policies::policy_record(*org, *id, draft, 1, now, now);
            (*actor, vec![Change::PolicyAdded(added)])
        }
        Manage::DisableTemplate {
            org,
            actor,
            template,
        } => {
            let template = Template::find(template).ok_or(Refusal::NotFound("template"))?;
            let there = template.enabled_in(desk.org(*org)?);
            let removed = there.map(|policy| Change::PolicyRemoved {
                org: *org,
                policy: policy.id,
            });
            (*actor, removed.into_iter().collect())
        }
        Manage::DeletePolicy { org, actor, id } => {
            let entry = directory.org(*org).ok_or(Refusal::NotFound("policy"))?;
            entry.rules.get(*id).ok_or(Refusal::NotFound("policy"))?;
            let removed = Change::PolicyRemoved {
                org: *org,
                policy: *id,
            };
            (*actor, vec![removed])
        }
        Manage::CreateKey { org, actor, key } => {
            let entry = desk.org(*org)?;
            let plan = plans.of(&entry.plan);
            (
                *actor,
                vec![keys::create(directory, now, entry, plan, key)?],
            )
        }
        Manage::RotateKey {
            org,
            actor,
            id,
            texts,
            previous_until,
        } => (
            *actor,
            vec![keys::rotate(directory, *org, *id, texts, *previous_until)?],
        ),
        Manage::KeyUsed { id } => (Actor::Key(*id), vec![Change::KeyUsed { key: *id }]),
        Manage::RevokeKey { org, actor, id } => (*actor, vec![keys::revoke(directory, *org, *id)?]),
        Manage::SetPrice { actor, price } => {
            let set = prices::set(directory, now, price)?;
            (*actor, set.into_iter().collect())
        }
    })
}

fn patched_org<'a>(
    desk: Desk<'_>,
    before: &'a OrgEntry,
    patch: &'a OrgPatch,
) -> Result<Org<'a>, Refusal> {
    if let Some(name) = &patch.name {
        bounded("name", name, limits::ORG_NAME_BYTES)?;
    }
    if let Some(address) = &patch.contact_email {
        text("contact_email", address, limits::EMAIL_BYTES)?;
    }
    if let Some(plan) = &patch.plan
        && desk.plans.get(plan).is_none()
    {
        let known: Vec<_> = desk.plans.iter().map(|plan| &*plan.name).collect();
        return Err(check::invalid(
            "plan",
            format!("plan must be one of {}", known.join(", ")),
        ));
    }
    budget("budget_cents", patch.budget.flatten())?;
    Ok(Org {
        name: patch.name.as_deref().unwrap_or(&before.name),
        plan: patch.plan.as_deref().unwrap_or(&before.plan),
        contact_email: patch
            .contact_email
            .as_deref()
            .unwrap_or(&before.contact_email),
        budget: patch.budget.unwrap_or(before.budget),
        period: patch.period.unwrap_or(before.period),
        composition: patch.composition.unwrap_or(before.composition),
        ..before.to_record()
    })
}

/// What to show of a change that was just folded.
#[must_use]
pub fn shown(directory: &Directory, manage: &Manage) -> Managed {
    let policy = |org: &OrgId, id: &PolicyId| {
        directory
            .org(*org)
            .and_then(|org| org.rules.get(*id))
            .map(|p| Managed::Policy(Arc::clone(p)))
    };
    let key = |id: &KeyId| directory.key(*id).map(|key| Managed::Key(Arc::clone(key)));
    let found = match manage {
        Manage::CreateWorkflow { id, .. } | Manage::PatchWorkflow { id, .. } => {
            Some(Managed::Workflow(*id))
        }
        Manage::PatchOrg { org, .. } => {
            directory.org(*org).map(|org| Managed::Org(Arc::clone(org)))
        }
        Manage::CreatePolicy { org, id, .. }
        | Manage::PatchPolicy { org, id, .. }
        | Manage::TogglePolicy { org, id, .. } => policy(org, id),
        Manage::EnableTemplate { org, template, .. } => Template::find(template)
            .zip(directory.org(*org))
            .and_then(|(template, org)| template.enabled_in(org))
            .map(|policy| Managed::Policy(Arc::clone(policy))),
        Manage::CreateKey {
            key: NewKey { id, .. },
            ..
        }
        | Manage::RotateKey { id, .. }
        | Manage::RevokeKey { id, .. } => key(id),
        _ => None,
    };
    found.unwrap_or(Managed::Done)
}
