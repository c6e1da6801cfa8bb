//! What lets a person in: passwords, mailed links, accounts at providers.

use super::Refusal;
use super::people::{Account, identity, user};
use crate::directory::Directory;
use persist::record::{Change, TokenKind, User};
use persist::{Millis, SessionId, UserId};

/// A password to be set.
#[derive(Clone, Copy)]
pub(super) struct NewPassword<'a> {
    pub password_hash: &'a str,
    pub but: Option<SessionId>,
    pub token: Option<[u8; 32]>,
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
            message: "this token is unknown, used or over; ask for another mail".to_owned(),
        }),
    }
}

pub(super) fn set_password<'a>(
    directory: &'a Directory,
    now: Millis,
    id: UserId,
    new: NewPassword<'a>,
) -> Result<Vec<Change<'a>>, Refusal> {
    let before = user(directory, id)?;
    if let Some(token) = new.token {
        link_holds(directory, now, id, TokenKind::PasswordReset, token)?;
    }
    let mut changes = vec![
        Change::UserChanged(User {
            password_hash: new.password_hash,
            verified_at: before.verified_at.or(new.token.map(|_| now)),
            ..before.to_record()
        }),
        Change::SessionsEnded {
            user: id,
            but: new.but,
        },
    ];
    // Also those in older mails: whoever reads them later must not set it again.
    let links = directory.tokens_of(id, TokenKind::PasswordReset, now);
    changes.extend(links.map(|token_hash| Change::TokenUsed { token_hash }));
    Ok(changes)
}

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
    use persist::record::{Actor, DirectoryRecord, Session, Token};

    const ADA: UserId = UserId(1);
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

    fn reset(directory: &mut Directory, at: Millis, token: u8) -> Result<(), Refusal> {
        let new = NewPassword {
            password_hash: "after",
            but: None,
            token: Some([token; 32]),
        };
        let before = directory.clone();
        let changes = set_password(&before, at, ADA, new)?;
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
