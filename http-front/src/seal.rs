//! Signing secrets at rest: sealed with ChaCha20-Poly1305 under the data directory's key, bound to
//! the id of the API key they belong to. What a browser keeps for the gateway is sealed with a key
//! derived from it.

use crate::config::BadConfig;
use crate::hash;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hmac::{Hmac, Mac as _};
use persist::KeyId;
use persist::disk::{Disk, PlainDisk};
use persist::whole_file::{self, Points};
use sha2::Sha256;
use std::path::Path;

const NONCE: usize = 12;

/// Points at which the machine may die while the key's file is made (see `persist::crash_points`).
const MADE: Points = Points {
    written: "master-key-written",
    synced: "master-key-synced",
    renamed: "master-key-renamed",
};
/// The last of them: the key's name is durable, and nothing is sealed with it.
const KEY_DIR_SYNCED: &str = "master-key-dir-synced";

/// Seals and opens secrets.
pub struct Sealer {
    cipher: ChaCha20Poly1305,
    root: Hmac<Sha256>,
}

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
    /// Making the key file.
    #[error(
        "{0}. It is to hold the key that seals signing secrets. Free space on its disk, let this user write there, or set NULLRUN_MASTER_KEY."
    )]
    Making(persist::Error),
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
        Ok(Self {
            cipher: ChaCha20Poly1305::new(&key.into()),
            root: Hmac::new_from_slice(&key).map_err(|_| BadConfig::MasterKey)?,
        })
    }

    /// A key for one purpose; the master key cannot be had back from it.
    #[must_use]
    pub fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut mac = self.root.clone();
        mac.update(purpose);
        mac.finalize().into_bytes().into()
    }

    /// Seals a text that somebody else keeps for a while, in hex.
    #[must_use]
    pub fn seal_text(&self, purpose: &[u8], text: &str) -> String {
        let nonce: [u8; NONCE] = hash::random();
        let cipher = ChaCha20Poly1305::new(&self.derive(purpose).into());
        let sealed = cipher.encrypt(&Nonce::from(nonce), text.as_bytes());
        let mut whole = nonce.to_vec();
        whole.extend(sealed.unwrap_or_default());
        hash::hex(&whole)
    }

    /// Opens such a text; `None` if it was not sealed here for this.
    #[must_use]
    pub fn open_text(&self, purpose: &[u8], sealed: &str) -> Option<String> {
        let sealed = hash::unhex_all(sealed)?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        let cipher = ChaCha20Poly1305::new(&self.derive(purpose).into());
        let text = cipher.decrypt(&Nonce::from(*nonce), sealed).ok()?;
        String::from_utf8(text).ok()
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
                let directory = path.parent().unwrap_or(Path::new("."));
                let disk = PlainDisk::at(directory).map_err(failed)?.private();
                Ok(Self::make(
                    &disk,
                    &path.file_name().unwrap_or_default().to_string_lossy(),
                )?)
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// Makes a key and its file: whole and durable before it is used, for a torn key would lose every
    /// secret it seals.
    fn make(disk: &dyn Disk, name: &str) -> Result<Self, SealError> {
        let text = hash::hex(&hash::random::<32>());
        let made = whole_file::write(disk, name, &[text.as_bytes()], &MADE)
            .and_then(|()| whole_file::sync_names(disk, KEY_DIR_SYNCED));
        made.map_err(SealError::Making)?;
        Ok(Self::from_hex(&text)?)
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
            self.cipher
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
            .cipher
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
    fn a_machine_that_dies_while_the_key_is_made_starts_again_with_a_whole_key() {
        use persist::disk::{FaultyDisk, read_all};
        for point in [MADE.written, MADE.synced, MADE.renamed, KEY_DIR_SYNCED] {
            for kept in [false, true] {
                let disk = FaultyDisk::default();
                disk.die_at(point, 1);
                assert!(Sealer::make(&disk, "master.key").is_err());
                assert!(disk.is_dead(), "{point} was not reached");
                disk.crash(|| kept);
                let there = disk.open("master.key").is_ok();
                assert!(there || point != KEY_DIR_SYNCED, "it was durable");
                if !there {
                    Sealer::make(&disk, "master.key").unwrap();
                }
                let text = read_all(disk.open("master.key").unwrap().as_ref()).unwrap();
                let text = String::from_utf8(text).unwrap();
                assert!(Sealer::from_hex(&text).is_ok(), "{point}: {text:?}");
            }
        }
    }

    #[test]
    fn a_text_opens_only_for_its_purpose() {
        let sealer = Sealer::from_hex(&"ab".repeat(32)).unwrap();
        let sealed = sealer.seal_text(b"one", "s3cret");
        assert_eq!(sealer.open_text(b"one", &sealed).unwrap(), "s3cret");
        assert_eq!(sealer.open_text(b"two", &sealed), None);
        assert_eq!(sealer.open_text(b"one", &sealed[2..]), None);
        assert_eq!(sealer.open_text(b"one", ""), None);
        assert_ne!(sealer.derive(b"one"), sealer.derive(b"two"));
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
