//! Signing secrets at rest: sealed with ChaCha20-Poly1305 under the data directory's key, bound to
//! the id of the API key they belong to.

use crate::config::BadConfig;
use crate::hash;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use persist::KeyId;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

const NONCE: usize = 12;

/// Seals and opens secrets.
pub struct Sealer(ChaCha20Poly1305);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

/// The key cannot be had, or does not fit.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A bad setting.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// The key file.
    #[error(
        "cannot read or make {path}: {source}. It holds the key that seals signing secrets: restore it, or set NULLRUN_MASTER_KEY."
    )]
    File {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another key sealed this secret.
    #[error(
        "the secret of API key {0} was sealed with another master key; restore master.key or NULLRUN_MASTER_KEY"
    )]
    WrongKey(KeyId),
}

impl Sealer {
    /// With a key given in hex.
    pub fn from_hex(text: &str) -> Result<Self, BadConfig> {
        let key: [u8; 32] = hash::unhex(text.trim()).ok_or(BadConfig::MasterKey)?;
        Ok(Self(ChaCha20Poly1305::new(&key.into())))
    }

    /// With the key in a file, made (mode 0600) if it is not there and `may_make` allows it.
    pub fn from_file(path: &Path, may_make: bool) -> Result<Self, SealError> {
        let failed = |source| SealError::File {
            path: path.display().to_string(),
            source,
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self::from_hex(&text)?),
            Err(error) if may_make && error.kind() == std::io::ErrorKind::NotFound => {
                let text = hash::hex(&hash::random::<32>());
                // Whole and durable under a temporary name first: a torn key would lose every secret.
                let temporary = path.with_extension("baking");
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&temporary)
                    .map_err(failed)?;
                file.write_all(text.as_bytes())
                    .and_then(|()| file.sync_all())
                    .map_err(failed)?;
                std::fs::rename(&temporary, path).map_err(failed)?;
                let directory = path.parent().unwrap_or(Path::new("."));
                std::fs::File::open(directory)
                    .and_then(|dir| dir.sync_all())
                    .map_err(failed)?;
                Ok(Self::from_hex(&text)?)
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// Seals a secret.
    #[must_use]
    pub fn seal(&self, key: KeyId, secret: &str) -> Vec<u8> {
        let nonce: [u8; NONCE] = hash::random();
        let aad = key.0.to_le_bytes();
        let payload = Payload {
            msg: secret.as_bytes(),
            aad: &aad,
        };
        let mut sealed = nonce.to_vec();
        // Encryption fails only for messages of many gigabytes.
        sealed.extend(
            self.0
                .encrypt(&Nonce::from(nonce), payload)
                .unwrap_or_default(),
        );
        sealed
    }

    /// Opens a sealed secret.
    pub fn open(&self, key: KeyId, sealed: &[u8]) -> Result<String, SealError> {
        let wrong = || SealError::WrongKey(key);
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>().ok_or_else(wrong)?;
        let aad = key.0.to_le_bytes();
        let payload = Payload {
            msg: sealed,
            aad: &aad,
        };
        let secret = self
            .0
            .decrypt(&Nonce::from(*nonce), payload)
            .map_err(|_| wrong())?;
        String::from_utf8(secret).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_only_for_its_key_and_with_the_right_master() {
        let sealer = Sealer::from_hex(&"ab".repeat(32)).unwrap();
        let sealed = sealer.seal(KeyId(1), "s3cret");
        assert!(!sealed.windows(6).any(|w| w == b"s3cret"));
        assert_eq!(sealer.open(KeyId(1), &sealed).unwrap(), "s3cret");
        assert!(sealer.open(KeyId(2), &sealed).is_err());
        assert!(
            Sealer::from_hex(&"cd".repeat(32))
                .unwrap()
                .open(KeyId(1), &sealed)
                .is_err()
        );
    }

    #[test]
    fn the_key_file_is_made_once_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let lost = Sealer::from_file(&dir.path().join("lost"), false);
        assert!(lost.is_err_and(|error| error.to_string().contains("restore it")));
        let path = dir.path().join("master.key");
        let sealed = Sealer::from_file(&path, true)
            .unwrap()
            .seal(KeyId(1), "s3cret");
        assert_eq!(
            Sealer::from_file(&path, true)
                .unwrap()
                .open(KeyId(1), &sealed)
                .unwrap(),
            "s3cret"
        );
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
