//! Passwords: Argon2id, off the event loop, a few at a time.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash};
use tokio::sync::Semaphore;

/// Hashing takes 19 MiB and tens of milliseconds: more at once would only crowd the machine.
static PERMITS: Semaphore = Semaphore::const_new(2);

/// Hashes a password, PHC form.
pub async fn hash(password: String) -> Option<String> {
    let _permit = PERMITS.acquire().await.ok()?;
    let hashed = tokio::task::spawn_blocking(move || {
        Argon2::default()
            .hash_password(password.as_bytes())
            .ok()
            .map(|hash| hash.to_string())
    });
    hashed.await.ok().flatten()
}

/// Does the password fit? Without a stored hash it takes as long and says no.
pub async fn verify(password: String, stored: Option<String>) -> bool {
    let Ok(_permit) = PERMITS.acquire().await else {
        return false;
    };
    let verified = tokio::task::spawn_blocking(move || {
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
    verified.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn only_the_right_password_fits() {
        let hash = super::hash("correct horse battery".to_owned())
            .await
            .unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(super::verify("correct horse battery".to_owned(), Some(hash.clone())).await);
        assert!(!super::verify("wrong".to_owned(), Some(hash)).await);
        assert!(!super::verify("wrong".to_owned(), None).await);
    }
}
