//! What lets a person in: passwords, mailed links, accounts at providers.

use super::Refusal;
use super::people::{Account, identity, user};
use crate::directory::Directory;
use crate::limits;
use persist::record::{Change, Token, TokenKind, User};
use persist::{Millis, SessionId, UserId};

/// What allows another password.
#[derive(Debug, Clone)]
pub enum PasswordProof {
    /// The one before.
    Current {
        /// The hash it was verified against; it must be the person's still.
        verified: String,
        /// Where it was said. This session goes on.
        session: SessionId,
    },
    /// A mailed link, which is used up, and shows that the address is theirs.
    Link([u8; 32]),
}

/// A link that was used or whose time is over allows nothing, also when two use it at once.
fn link_holds(
    directory: &Directory,
    now: Millis,
    user: UserId,
    kind: TokenKind,
    token: [u8; 32],
) -> Result<(), Refusal> {
    let token = directory.token(&token, kind, now);
    match token.filter(|token| token.user == user) {
        Some(_) => Ok(()),
        None => Err(Refusal::Invalid {
            code: "invalid_token",
            field: "token",
            message: "this token is unknown, used, over or another person's; ask for another mail"
                .to_owned(),
        }),
    }
}

pub(super) fn set_password<'a>(
    directory: &'a Directory,
    now: Millis,
    id: UserId,
    password_hash: &'a str,
    proof: &PasswordProof,
) -> Result<Vec<Change<'a>>, Refusal> {
    let before = user(directory, id)?;
    let (but, shown) = match proof {
        // Somebody who knew an older one must not undo the change that took it from them.
        PasswordProof::Current { verified, .. } if *before.password_hash != **verified => {
            return Err(Refusal::OldPassword);
        }
        PasswordProof::Current { session, .. } => (Some(*session), None),
        PasswordProof::Link(token) => {
            link_holds(directory, now, id, TokenKind::PasswordReset, *token)?;
            (None, Some(now))
        }
    };
    let mut changes = vec![
        Change::UserChanged(User {
            password_hash,
            verified_at: before.verified_at.or(shown),
            ..before.to_record()
        }),
        Change::SessionsEnded { user: id, but },
    ];
    // Also those in older mails: whoever reads them later must not set it again.
    let links = directory.tokens_of(id, TokenKind::PasswordReset, now);
    changes.extend(links.map(|token_hash| Change::TokenUsed { token_hash }));
    Ok(changes)
}

/// The new link, and the end of the person's oldest for which there is no more room.
pub(super) fn add_token<'a>(directory: &'a Directory, now: Millis, new: &Token) -> Vec<Change<'a>> {
    let hold = || directory.tokens_of(new.user, new.kind, now);
    let over = (hold().count() + 1).saturating_sub(limits::LINKS);
    let ended = hold()
        .take(over)
        .map(|token_hash| Change::TokenUsed { token_hash });
    ended.chain([Change::TokenAdded(new.clone())]).collect()
}

/// The link shows that whoever opened it has the mailbox, and not that the account is theirs: a
/// stranger may have registered the address, and waits for its owner to bless that. So it counts only
/// for who is signed in to the account.
pub(super) fn verify_email(
    directory: &Directory,
    now: Millis,
    id: UserId,
    token: [u8; 32],
) -> Result<Vec<Change<'_>>, Refusal> {
    let before = user(directory, id)?;
    link_holds(directory, now, id, TokenKind::VerifyEmail, token)?;
    let verified = User {
        verified_at: before.verified_at.or(Some(now)),
        ..before.to_record()
    };
    let links = directory.tokens_of(id, TokenKind::VerifyEmail, now);
    let used = links.map(|token_hash| Change::TokenUsed { token_hash });
    Ok([Change::UserChanged(verified)]
        .into_iter()
        .chain(used)
        .collect())
}

pub(super) fn link<'a>(
    directory: &'a Directory,
    now: Millis,
    id: UserId,
    account: &'a Account,
) -> Result<Vec<Change<'a>>, Refusal> {
    let before = user(directory, id)?;
    let mut changes = vec![identity(directory, id, account)?];
    if before.verified_at.is_none() {
        // Whoever registered the address first may not be who owns it.
        changes.push(Change::UserChanged(User {
            password_hash: "",
            verified_at: Some(now),
            ..before.to_record()
        }));
        changes.push(Change::SessionsEnded {
            user: id,
            but: None,
        });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::people::{NewSession, SignInProof, open_session};
    use persist::record::{Actor, DirectoryRecord, Session};

    const ADA: UserId = UserId(1);
    const BOB: UserId = UserId(2);
    const NOW: Millis = Millis(1000);

    fn fold(directory: &mut Directory, changes: Vec<Change<'_>>) {
        directory.fold(&DirectoryRecord {
            at: NOW,
            actor: Actor::System,
            changes,
        });
    }

    /// Ada, with a session and two links to set another password and one to verify her address.
    fn directory() -> Directory {
        let mut directory = Directory::default();
        let ada = User {
            id: ADA,
            email: "ada@example.com",
            name: "Ada",
            password_hash: "before",
            verified_at: None,
            created_at: NOW,
        };
        let session = Session {
            id: SessionId(1),
            token_hash: [9; 32],
            user: ADA,
            ip: "",
            user_agent: "",
            created_at: NOW,
            expires_at: Millis(9000),
        };
        let token = |n: u8, kind| {
            Change::TokenAdded(Token {
                token_hash: [n; 32],
                kind,
                user: ADA,
                expires_at: Millis(5000),
            })
        };
        let changes = vec![
            Change::UserAdded(ada),
            Change::SessionAdded(session),
            token(1, TokenKind::PasswordReset),
            token(2, TokenKind::PasswordReset),
            token(3, TokenKind::VerifyEmail),
        ];
        fold(&mut directory, changes);
        directory
    }

    fn new_session(user: UserId, id: u128, token_hash: [u8; 32]) -> NewSession {
        NewSession {
            id: SessionId(id),
            token_hash,
            user,
            ip: String::new(),
            user_agent: String::new(),
            expires_at: Millis(9000),
        }
    }

    fn reset(directory: &mut Directory, at: Millis, token: u8) -> Result<(), Refusal> {
        let before = directory.clone();
        let proof = PasswordProof::Link([token; 32]);
        let changes = set_password(&before, at, ADA, "after", &proof)?;
        fold(directory, changes);
        Ok(())
    }

    #[test]
    fn a_link_sets_one_password_and_uses_the_others_up() {
        let mut directory = directory();
        for wrong in [3, 4] {
            assert!(reset(&mut directory, NOW, wrong).is_err(), "{wrong}");
        }
        assert!(reset(&mut directory, Millis(5000), 1).is_err(), "too late");
        assert_eq!(reset(&mut directory, NOW, 1), Ok(()));
        let ada = directory.user(ADA).unwrap();
        assert_eq!((&*ada.password_hash, ada.verified_at), ("after", Some(NOW)));
        assert!(directory.session(&[9; 32], NOW).is_none());
        for used in [1, 2] {
            assert!(reset(&mut directory, NOW, used).is_err(), "{used}");
        }
        // The address may still be verified, once.
        let before = directory.clone();
        let changes = verify_email(&before, NOW, ADA, [3; 32]).unwrap();
        fold(&mut directory, changes);
        assert!(verify_email(&directory, NOW, ADA, [3; 32]).is_err());
    }

    /// Verifying a password takes a while; here another is set meanwhile.
    #[test]
    fn a_password_that_was_replaced_while_it_was_verified_opens_no_session_and_sets_no_other() {
        let mut directory = directory();
        let session = new_session(ADA, 2, [8; 32]);
        let sign_in = |directory: &Directory, verified: &str| {
            let proof = SignInProof::Password(verified.to_owned());
            open_session(directory, NOW, &session, &proof).map(|changes| changes.len())
        };
        let set = |directory: &Directory, verified: &str| {
            let proof = PasswordProof::Current {
                verified: verified.to_owned(),
                session: SessionId(1),
            };
            set_password(directory, NOW, ADA, "third", &proof).map(|changes| changes.len() > 1)
        };
        assert_eq!(sign_in(&directory, "before"), Ok(1));
        assert_eq!(set(&directory, "before"), Ok(true));
        assert_eq!(reset(&mut directory, NOW, 1), Ok(()));
        assert_eq!(sign_in(&directory, "before"), Err(Refusal::OldPassword));
        assert_eq!(set(&directory, "before"), Err(Refusal::OldPassword));
        assert_eq!(sign_in(&directory, "after"), Ok(1));
    }

    #[test]
    fn beyond_their_bounds_the_oldest_sessions_and_links_of_a_person_end_and_nobody_elses() {
        let mut directory = directory();
        let ada = directory.user(ADA).unwrap().clone();
        let bob = User {
            id: BOB,
            email: "bob@example.com",
            ..ada.to_record()
        };
        fold(&mut directory, vec![Change::UserAdded(bob)]);
        let hash = |user: UserId, n: usize| [user.0 as u8, n as u8].repeat(16).try_into().unwrap();
        let most = limits::SESSIONS;
        for n in 2..most + 4 {
            for user in [ADA, BOB] {
                let before = directory.clone();
                let session = new_session(user, n as u128, hash(user, n));
                let opened = open_session(&before, NOW, &session, &SignInProof::Provider);
                fold(&mut directory, opened.unwrap());
                let link = Token {
                    token_hash: hash(user, n),
                    kind: TokenKind::PasswordReset,
                    user,
                    expires_at: Millis(6000 + n as u64),
                };
                fold(&mut directory, add_token(&before, NOW, &link));
            }
        }
        for user in [ADA, BOB] {
            let open = directory.sessions_of(user, NOW);
            let open: Vec<_> = open.map(|session| session.id.0 as usize).collect();
            assert_eq!(open, (4..most + 4).collect::<Vec<_>>());
            let hold = directory.tokens_of(user, TokenKind::PasswordReset, NOW);
            let newest = (most + 4 - limits::LINKS..most + 4).map(|n| hash(user, n));
            assert_eq!(hold.collect::<Vec<_>>(), newest.collect::<Vec<_>>());
        }
        // Links of another kind are counted apart.
        let kind = TokenKind::VerifyEmail;
        assert_eq!(directory.tokens_of(ADA, kind, NOW).count(), 1);
    }

    #[test]
    fn a_password_without_proof_of_the_address_ends_when_a_provider_has_one() {
        let mut directory = directory();
        let account = Account {
            provider: "acme".to_owned(),
            subject: "ada".to_owned(),
        };
        let before = directory.clone();
        let changes = link(&before, NOW, ADA, &account).unwrap();
        fold(&mut directory, changes);
        let ada = directory.user_by_identity("acme", "ada").unwrap();
        assert_eq!((&*ada.password_hash, ada.verified_at), ("", Some(NOW)));
        assert_eq!(ada.identities.len(), 1);
        assert!(directory.session(&[9; 32], NOW).is_none());
        assert!(link(&directory, NOW, ADA, &account).is_err(), "taken");
        // Now the address is hers: what else is linked ends nothing.
        let other = Account {
            provider: "github".to_owned(),
            ..account
        };
        assert_eq!(link(&directory, NOW, ADA, &other).unwrap().len(), 1);
    }
}
