//! Passwords: Argon2id, off the event loop, a few at a time.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash};
use std::sync::{Arc, LazyLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hashing takes 19 MiB and tens of milliseconds: more at once would only crowd the machine.
const AT_ONCE: usize = 2;
/// How many more may wait for their turn: about a second's work.
const WAITING: usize = 64;

static DESK: LazyLock<Desk> = LazyLock::new(|| Desk::new(AT_ONCE, WAITING));

/// Bounds the work, also that of clients who have hung up: a hash that has begun cannot be stopped,
/// so its permits go with it.
#[derive(Debug)]
struct Desk {
    room: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Desk {
    fn new(at_once: usize, waiting: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(at_once + waiting)),
            turns: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// Does the work on a thread for blocking; `None` at once if too many wait already.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let room = Arc::clone(&self.room).try_acquire_owned().ok()?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        let done = tokio::task::spawn_blocking(move || {
            let _until_done: [OwnedSemaphorePermit; 2] = [room, turn];
            work()
        });
        done.await.ok()
    }
}

/// Hashes a password, PHC form; `None` if too many wait for that.
pub async fn hash(password: String) -> Option<String> {
    let hashed = DESK.run(move || {
        Argon2::default()
            .hash_password(password.as_bytes())
            .ok()
            .map(|hash| hash.to_string())
    });
    hashed.await.flatten()
}

/// Does the password fit? Without a stored hash it takes as long and says no. `None` if too many
/// wait for an answer.
pub async fn verify(password: String, stored: Option<String>) -> Option<bool> {
    let verified = DESK.run(move || {
        let argon = Argon2::default();
        match &stored {
            Some(stored) => PasswordHash::new(stored)
                .is_ok_and(|hash| argon.verify_password(password.as_bytes(), &hash).is_ok()),
            None => {
                let _same_work = argon.hash_password(password.as_bytes());
                false
            }
        }
    });
    verified.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn only_the_right_password_fits() {
        let hash = hash("correct horse battery".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        let good = verify("correct horse battery".to_owned(), Some(hash.clone())).await;
        assert_eq!(good, Some(true));
        assert_eq!(verify("wrong".to_owned(), Some(hash)).await, Some(false));
        assert_eq!(verify("wrong".to_owned(), None).await, Some(false));
    }

    #[tokio::test]
    async fn who_hangs_up_does_not_free_the_turn_while_the_hash_goes_on() {
        let desk = Desk::new(1, 1);
        let (finish, finished) = mpsc::channel::<()>();
        {
            let begun = desk.run(move || finished.recv());
            let hung_up = tokio::time::timeout(Duration::from_millis(20), begun).await;
            assert!(hung_up.is_err());
        }
        assert_eq!(desk.turns.available_permits(), 0);
        let mut second = Box::pin(desk.run(|| 2));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(early.is_err(), "two at once");
        assert_eq!(desk.run(|| 3).await, None, "more wait than may");
        finish.send(()).unwrap();
        assert_eq!(second.await, Some(2));
    }
}
