//! Who belongs to an organization: roles, invitations, and the organization's end.

use super::desk::{Desk, KEY, ORG, PRICES, WORKFLOW, cents};
use engine::command::Outcome;
use engine::directory::{Directory, MailState};
use engine::limits;
use engine::manage::{Answer, Manage, NewInvite, NewOrg, NewSession, Newcomer, Refusal};
use engine::plan::{Limits, Plan};
use engine::price::PriceTable;
use engine::snapshot::read_directory;
use engine::{Engine, Settings};
use persist::record::Role::{Admin, Operator, Owner, Viewer};
use persist::record::{EndReason, Record, Role};
use persist::{InviteId, Millis, OrgId, SessionId, UserId, WorkflowId};
use std::sync::Arc;

const ROLES: [Role; 4] = [Viewer, Operator, Admin, Owner];
/// Whoever signed up first at the desk.
const FIRST: UserId = UserId(1001);
const WEEK: u64 = 7 * 24 * 3_600_000;

fn hash(n: u128) -> [u8; 32] {
    let mut hash = [7; 32];
    hash[..16].copy_from_slice(&n.to_le_bytes());
    hash
}

fn directory(desk: &Desk) -> &Directory {
    desk.engine.directory().unwrap()
}

fn session(desk: &mut Desk, user: UserId) -> NewSession {
    NewSession {
        id: SessionId(desk.fresh()),
        token_hash: hash(user.0),
        user,
        ip: String::new(),
        user_agent: String::new(),
        expires_at: Millis(u64::MAX),
    }
}

fn try_invite(desk: &mut Desk, by: UserId, email: &str, role: Role) -> Result<InviteId, Refusal> {
    let id = InviteId(desk.fresh());
    let invite = NewInvite {
        id,
        email: email.to_owned(),
        role,
        token_hash: hash(id.0),
        expires_at: desk.engine.now().plus(WEEK),
    };
    let org = ORG;
    done(desk, Manage::Invite { org, by, invite }).map(|()| id)
}

fn done(desk: &mut Desk, change: Manage) -> Result<(), Refusal> {
    match desk.manage(change) {
        Outcome::Managed(_) => Ok(()),
        Outcome::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

fn answer(desk: &mut Desk, invite: InviteId, answer: Answer) -> Result<(), Refusal> {
    let token_hash = hash(invite.0);
    done(desk, Manage::AnswerInvite { token_hash, answer })
}

/// Somebody new in the org, with a session.
fn join(desk: &mut Desk, role: Role) -> UserId {
    let user = UserId(desk.fresh());
    let invite = try_invite(desk, FIRST, &format!("{user}@x"), role).unwrap();
    let session = session(desk, user);
    let newcomer = Answer::Register(Box::new(Newcomer {
        user,
        name: String::new(),
        password_hash: "$".to_owned(),
        session,
    }));
    answer(desk, invite, newcomer).unwrap();
    user
}

fn set_role(desk: &mut Desk, by: UserId, user: UserId, role: Role) -> Result<(), Refusal> {
    let org = ORG;
    let change = Manage::SetRole {
        org,
        by,
        user,
        role,
    };
    done(desk, change)
}

fn remove(desk: &mut Desk, by: UserId, user: UserId) -> Result<(), Refusal> {
    let org = ORG;
    done(desk, Manage::RemoveMember { org, by, user })
}

fn is_conflict<T>(result: Result<T, Refusal>, slug: &str) -> bool {
    matches!(result, Err(Refusal::Conflict { code, .. }) if code == slug)
}

/// What four roles may do to four roles, against the rule in one line: admins and owners, and
/// nothing above themselves.
#[test]
fn nobody_makes_changes_removes_or_invites_what_is_above_them() {
    for own in ROLES {
        for role in ROLES {
            let may = own >= Admin && role <= own;
            let mut desk = Desk::new();
            let by = join(&mut desk, own);
            let invited = try_invite(&mut desk, by, "new@x", role);
            assert_eq!(invited.is_ok(), may, "{own:?} invites as {role:?}");
            let other = join(&mut desk, Viewer);
            let raised = set_role(&mut desk, by, other, role);
            assert_eq!(raised.is_ok(), may, "{own:?} makes a {role:?}");
            let other = join(&mut desk, role);
            let lowered = set_role(&mut desk, by, other, Viewer);
            assert_eq!(lowered.is_ok(), may, "{own:?} changes a {role:?}");
            let other = join(&mut desk, role);
            let removed = remove(&mut desk, by, other);
            assert_eq!(removed.is_ok(), may, "{own:?} removes a {role:?}");
            let pending = try_invite(&mut desk, FIRST, "pending@x", role).unwrap();
            let resent = Manage::ResendInvite {
                org: ORG,
                by,
                id: pending,
                token_hash: hash(1),
                expires_at: desk.engine.now().plus(WEEK),
            };
            assert_eq!(done(&mut desk, resent).is_ok(), may, "{own:?} sends again");
        }
    }
}

#[test]
fn the_last_owner_stays_and_nobody_changes_their_own_role() {
    let mut desk = Desk::new();
    let admin = join(&mut desk, Admin);
    let slug = "cannot_demote_last_owner";
    assert!(is_conflict(set_role(&mut desk, FIRST, FIRST, Admin), slug));
    assert!(is_conflict(remove(&mut desk, FIRST, FIRST), slug));
    let own = "cannot_modify_own_role";
    for role in ROLES {
        let changed = set_role(&mut desk, admin, admin, role);
        assert!(is_conflict(changed, own), "{role:?}");
    }
    set_role(&mut desk, FIRST, admin, Owner).unwrap();
    assert!(is_conflict(set_role(&mut desk, FIRST, FIRST, Admin), own));
    set_role(&mut desk, admin, FIRST, Viewer).unwrap();
    assert_eq!(directory(&desk).role(ORG, FIRST), Some(Viewer));
    assert!(is_conflict(remove(&mut desk, admin, admin), slug));
}

#[test]
fn who_is_removed_is_signed_out_and_who_leaves_is_not() {
    let mut desk = Desk::new();
    let [removed, leaving] = [Operator, Viewer].map(|role| join(&mut desk, role));
    let now = desk.engine.now();
    let signed_in =
        |desk: &Desk, user: UserId| directory(desk).session(&hash(user.0), now).is_some();
    assert!(signed_in(&desk, removed) && signed_in(&desk, leaving));
    remove(&mut desk, FIRST, removed).unwrap();
    remove(&mut desk, leaving, leaving).unwrap();
    assert!(!signed_in(&desk, removed) && signed_in(&desk, leaving));
    for gone in [removed, leaving] {
        assert_eq!(directory(&desk).role(ORG, gone), None);
        assert!(directory(&desk).user(gone).unwrap().orgs.is_empty());
    }
    let again = remove(&mut desk, FIRST, removed);
    assert_eq!(again, Err(Refusal::NotFound("member")));
    let stranger = remove(&mut desk, removed, FIRST);
    assert_eq!(stranger, Err(Refusal::NotFound("organization")));
}

#[test]
fn an_invitation_is_answered_once_in_its_time_by_whom_it_is_for() {
    let mut desk = Desk::new();
    let (org, workflow, key) = (OrgId(50), WorkflowId(51), persist::KeyId(52));
    desk.sign_up(org, workflow, key);
    let other = UserId(1002);
    let email = directory(&desk).user(other).unwrap().email.to_string();
    let invite = try_invite(&mut desk, FIRST, &email, Operator).unwrap();
    let twice = try_invite(&mut desk, FIRST, &email, Viewer);
    assert!(is_conflict(twice, "invite_already_pending"));
    let foreign = answer(&mut desk, invite, Answer::Accept(FIRST));
    assert!(matches!(foreign, Err(Refusal::Forbidden(_))), "{foreign:?}");
    let session = session(&mut desk, UserId(77));
    let newcomer = Newcomer {
        user: UserId(77),
        name: String::new(),
        password_hash: "$".to_owned(),
        session,
    };
    let taken = answer(&mut desk, invite, Answer::Register(Box::new(newcomer)));
    assert!(is_conflict(taken, "email_taken"));
    assert_eq!(directory(&desk).user(other).unwrap().verified_at, None);
    answer(&mut desk, invite, Answer::Accept(other)).unwrap();
    assert_eq!(directory(&desk).role(ORG, other), Some(Operator));
    // Whoever has the link has the mailbox.
    assert!(directory(&desk).user(other).unwrap().verified_at.is_some());
    let gone = Err(Refusal::NotFound("invitation"));
    assert_eq!(answer(&mut desk, invite, Answer::Accept(other)), gone);
    let member = try_invite(&mut desk, FIRST, &email, Viewer);
    assert!(is_conflict(member, "already_member"));

    let declined = try_invite(&mut desk, FIRST, "no@x", Viewer).unwrap();
    answer(&mut desk, declined, Answer::Decline).unwrap();
    assert_eq!(answer(&mut desk, declined, Answer::Decline), gone);
    let late = try_invite(&mut desk, FIRST, "late@x", Viewer).unwrap();
    desk.wait(WEEK - 1);
    assert!(
        directory(&desk)
            .invite_by_hash(&hash(late.0), desk.engine.now())
            .is_some()
    );
    desk.wait(1);
    assert_eq!(answer(&mut desk, late, Answer::Decline), gone);
    // Its place is free for another one.
    try_invite(&mut desk, FIRST, "late@x", Viewer).unwrap();
    assert_eq!(directory(&desk).org(ORG).unwrap().invites.len(), 1);
}

#[test]
fn what_became_of_an_older_mail_is_not_told_of_the_newer_one() {
    let mut desk = Desk::new();
    let id = try_invite(&mut desk, FIRST, "a@x", Viewer).unwrap();
    let note = |token_hash, sent| Manage::NoteInviteMail {
        org: ORG,
        id,
        token_hash,
        sent,
    };
    let mail = |desk: &Desk| directory(desk).invite(ORG, id).unwrap().mail;
    assert_eq!(mail(&desk), MailState::Pending);
    done(&mut desk, note(hash(id.0), false)).unwrap();
    assert_eq!(mail(&desk), MailState::Failed);
    let again = Manage::ResendInvite {
        org: ORG,
        by: FIRST,
        id,
        token_hash: hash(5),
        expires_at: desk.engine.now().plus(WEEK),
    };
    done(&mut desk, again).unwrap();
    assert_eq!(mail(&desk), MailState::Pending);
    done(&mut desk, note(hash(id.0), false)).unwrap();
    assert_eq!(mail(&desk), MailState::Pending);
    done(&mut desk, note(hash(5), true)).unwrap();
    assert_eq!(mail(&desk), MailState::Sent);
    // The link before leads nowhere.
    let old = answer(&mut desk, id, Answer::Decline);
    assert_eq!(old, Err(Refusal::NotFound("invitation")));
    same_when_restored(&desk);
}

#[test]
fn seats_are_members_and_open_invitations() {
    let mut desk = Desk::under(Plan {
        limits: Limits {
            seats: Some(2),
            ..Limits::default()
        },
        ..Plan::default()
    });
    let first = FIRST;
    let invite = try_invite(&mut desk, first, "a@x", Viewer).unwrap();
    let full = Refusal::Limit {
        code: "seats_limit_reached",
        resource: "seats",
        current: 2,
        limit: 2,
    };
    let second = try_invite(&mut desk, first, "b@x", Viewer);
    assert_eq!(second, Err(full.clone()));
    desk.wait(WEEK);
    try_invite(&mut desk, first, "b@x", Viewer).unwrap();
    // Its seat was given away meanwhile.
    let again = Manage::ResendInvite {
        org: ORG,
        by: first,
        id: invite,
        token_hash: hash(5),
        expires_at: desk.engine.now().plus(WEEK),
    };
    assert_eq!(done(&mut desk, again), Err(full));
}

#[test]
fn an_organization_goes_with_its_last_member_and_its_keys_are_known_as_revoked() {
    let mut desk = Desk::new();
    let free = desk.add_key(None, Some(cents(50)));
    let admin = join(&mut desk, Admin);
    let by = FIRST;
    try_invite(&mut desk, by, "open@x", Viewer).unwrap();
    let holds = [
        desk.allowed(|ask| ask.estimated_tokens = 20_000),
        desk.allowed(|ask| ask.key = free),
    ];
    let remove_org = |by| Manage::RemoveOrg { org: ORG, by };
    let others = done(&mut desk, remove_org(by));
    assert!(is_conflict(others, "org_has_members"));
    let not_owner = done(&mut desk, remove_org(admin));
    assert!(matches!(not_owner, Err(Refusal::Forbidden(_))));
    remove(&mut desk, admin, admin).unwrap();
    done(&mut desk, remove_org(by)).unwrap();

    assert!(directory(&desk).org(ORG).is_none());
    assert!(directory(&desk).user(by).unwrap().orgs.is_empty());
    assert!(directory(&desk).workflow(ORG, WORKFLOW).is_none());
    for key in [KEY, free] {
        let key = directory(&desk).key(key).unwrap();
        assert!(key.revoked_at.is_some());
        assert!(directory(&desk).key_by_hash(&key.key_hash).is_some());
    }
    same_when_restored(&desk);
    // Nobody calls any more, and what is held ends in its time.
    desk.refused(|_| {});
    desk.wait(300_000);
    assert!(holds.iter().all(|hold| desk.left(*hold).is_none()));
    let mut expired = 0;
    desk.records(|record| {
        if let Record::HoldEnded(ended) = record {
            expired += usize::from(ended.reason == EndReason::Expired);
        }
    });
    assert_eq!(expired, holds.len());
    same_when_restored(&desk);
}

#[test]
fn a_further_organization_is_its_makers_and_has_a_workflow() {
    let mut desk = Desk::new();
    let (org, workflow) = (OrgId(60), WorkflowId(61));
    let new = |name: &str, by| {
        Manage::CreateOrg(Box::new(NewOrg {
            org,
            by,
            name: name.to_owned(),
            contact_email: None,
            workflow,
            workflow_name: "default".to_owned(),
        }))
    };
    assert!(done(&mut desk, new(" ", FIRST)).is_err());
    assert!(done(&mut desk, new("x", UserId(9))).is_err());
    done(&mut desk, new("second", FIRST)).unwrap();
    assert_eq!(directory(&desk).role(org, FIRST), Some(Owner));
    assert!(directory(&desk).workflow(org, workflow).is_some());
    assert_eq!(directory(&desk).user(FIRST).unwrap().orgs.len(), 2);
    same_when_restored(&desk);
}

/// A snapshot of this state holds the same state.
fn same_when_restored(desk: &Desk) {
    let prices = Arc::new(PriceTable::from_json(PRICES).unwrap());
    let mut restored = Engine::new(prices, Settings::default());
    let part = desk.engine.directory_part().unwrap();
    restored.restore_directory(read_directory(&part).unwrap());
    let again = restored.directory_part().unwrap();
    assert!(part[..] == again[..], "the directory is another one");
    let directory = restored.directory().unwrap();
    for org in desk.engine.directory().unwrap().orgs() {
        assert_eq!(directory.org(org.id).unwrap().members, org.members);
    }
}

fn further_org(desk: &mut Desk, by: UserId) -> Result<OrgId, Refusal> {
    let org = OrgId(desk.fresh());
    let new = NewOrg {
        org,
        by,
        name: "further".to_owned(),
        contact_email: None,
        workflow: WorkflowId(desk.fresh()),
        workflow_name: "default".to_owned(),
    };
    done(desk, Manage::CreateOrg(Box::new(new))).map(|()| org)
}

#[test]
fn a_person_belongs_to_so_many_organizations_and_leaves_one_to_join_another() {
    let mut desk = Desk::new();
    let member = join(&mut desk, Viewer);
    let email = format!("{member}@x");
    let made: Vec<_> = (1..limits::ORGS_PER_PERSON)
        .map(|_| further_org(&mut desk, member).unwrap())
        .collect();
    let slug = "organization_limit_reached";
    assert!(is_conflict(further_org(&mut desk, member), slug));
    // Nor by an invitation.
    remove(&mut desk, member, member).unwrap();
    let last = further_org(&mut desk, member).unwrap();
    let invite = try_invite(&mut desk, FIRST, &email, Viewer).unwrap();
    let accepted = answer(&mut desk, invite, Answer::Accept(member));
    assert!(is_conflict(accepted, slug));
    for org in [last, made[0]] {
        let by = member;
        done(&mut desk, Manage::RemoveOrg { org, by }).unwrap();
    }
    answer(&mut desk, invite, Answer::Accept(member)).unwrap();
    further_org(&mut desk, member).unwrap();
}

#[test]
fn an_organization_has_so_many_open_invitations_and_those_that_are_over_make_room() {
    let mut desk = Desk::new();
    let first = try_invite(&mut desk, FIRST, "first@x", Viewer).unwrap();
    desk.wait(1000);
    for n in 1..limits::INVITES {
        try_invite(&mut desk, FIRST, &format!("{n}@x"), Viewer).unwrap();
    }
    let more = try_invite(&mut desk, FIRST, "more@x", Viewer);
    assert!(is_conflict(more, "invite_limit_reached"));
    desk.wait(WEEK - 1000);
    try_invite(&mut desk, FIRST, "more@x", Viewer).unwrap();
    let invites = &directory(&desk).org(ORG).unwrap().invites;
    assert_eq!(invites.len(), limits::INVITES);
    assert!(!invites.contains(&first));
    let more = try_invite(&mut desk, FIRST, "again@x", Viewer);
    assert!(is_conflict(more, "invite_limit_reached"));
}
