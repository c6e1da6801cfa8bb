//! Which providers are set up. Two have settings of their own; any OpenID issuer has three variables
//! with a name of the operator's choice in them.

use crate::config::{BadConfig, Config};
use crate::mail::is_loopback;
use reqwest::Url;
use std::collections::BTreeMap;

const PREFIX: &str = "NULLRUN_OIDC_";
const PARTS: [&str; 3] = ["_CLIENT_SECRET", "_CLIENT_ID", "_ISSUER"];

/// One provider's settings.
#[derive(Clone)]
pub struct Settings {
    pub name: String,
    pub kind: Kind,
    pub client_id: String,
    pub client_secret: String,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Settings({}, {:?}, ..)", self.name, self.kind)
    }
}

impl Settings {
    /// The variable that sets a part of it.
    pub fn variable(&self, part: &str) -> String {
        let name = self.name.to_ascii_uppercase();
        match self.name.as_str() {
            "github" | "google" => format!("NULLRUN_{name}_{part}"),
            _ => format!("{PREFIX}{name}_{part}"),
        }
    }

    /// An id or secret that is set to nothing would be met at the first sign-in only.
    fn check(self) -> Result<Self, BadConfig> {
        for (part, value) in [
            ("CLIENT_ID", &self.client_id),
            ("CLIENT_SECRET", &self.client_secret),
        ] {
            if value.trim().is_empty() {
                let variable = self.variable(part);
                return Err(bad(format!(
                    "{variable} is empty; set it as it is at the provider, or remove all variables \
                     of this provider"
                )));
            }
        }
        Ok(self)
    }
}

/// How a provider is spoken to.
#[derive(Debug, Clone)]
pub enum Kind {
    /// OAuth 2 and GitHub's own API, at this address.
    GitHub(Url),
    /// OpenID Connect.
    Oidc(String),
}

fn bad(what: impl Into<String>) -> BadConfig {
    BadConfig::Provider(what.into())
}

/// `NULLRUN_OIDC_ACME_ISSUER` as (`ACME`, `_ISSUER`).
fn parts(variable: &str) -> Option<(&str, &'static str)> {
    let rest = variable.strip_prefix(PREFIX)?;
    let part = PARTS.into_iter().find(|part| rest.ends_with(part))?;
    let name = rest.strip_suffix(part)?;
    let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    (!name.is_empty() && name.len() <= 32 && name.chars().all(word)).then_some((name, part))
}

/// Is this variable one of a provider's?
#[must_use]
pub fn is_setting(variable: &str) -> bool {
    parts(variable).is_some()
}

/// Secrets go there: only over HTTPS, or to this machine.
#[must_use]
pub fn is_safe(url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => url.host_str().is_some_and(is_loopback),
        _ => false,
    }
}

fn safe(name: &str, text: &str) -> Result<Url, BadConfig> {
    let url = Url::parse(text.trim()).ok().filter(is_safe);
    url.ok_or_else(|| {
        bad(format!(
            "{name} must be an address with https:// (http:// only on this machine)"
        ))
    })
}

/// Every provider that is set up.
pub fn configured(config: &Config) -> Result<Vec<Settings>, BadConfig> {
    let mut all = Vec::new();
    let pairs = [
        (
            "github",
            &config.github_client_id,
            &config.github_client_secret,
        ),
        (
            "google",
            &config.google_client_id,
            &config.google_client_secret,
        ),
    ];
    for (name, id, secret) in pairs {
        let upper = name.to_ascii_uppercase();
        let (id, secret) = match (id, secret) {
            (None, None) => continue,
            (Some(id), Some(secret)) => (id, secret),
            _ => {
                return Err(bad(format!(
                    "NULLRUN_{upper}_CLIENT_ID and NULLRUN_{upper}_CLIENT_SECRET go together"
                )));
            }
        };
        let kind = match name {
            "github" => Kind::GitHub(safe("NULLRUN_GITHUB_URL", &config.github_url)?),
            _ => Kind::Oidc("https://accounts.google.com".to_owned()),
        };
        all.push(Settings {
            name: name.to_owned(),
            kind,
            client_id: id.clone(),
            client_secret: secret.clone(),
        });
    }
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        // What is not UTF-8 is somebody else's.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    all.extend(issuers(variables)?);
    all.into_iter().map(Settings::check).collect()
}

fn issuers(variables: impl Iterator<Item = (String, String)>) -> Result<Vec<Settings>, BadConfig> {
    let mut found: BTreeMap<String, BTreeMap<&'static str, String>> = BTreeMap::new();
    for (variable, value) in variables {
        if let Some((name, part)) = parts(&variable) {
            found
                .entry(name.to_owned())
                .or_default()
                .insert(part, value);
        }
    }
    let one = |(name, mut values): (String, BTreeMap<&'static str, String>)| {
        let mut take = |part: &str| {
            values.remove(part).ok_or_else(|| {
                bad(format!(
                    "{PREFIX}{name}{part} is missing; an issuer needs {PREFIX}{name}_ISSUER, \
                         _CLIENT_ID and _CLIENT_SECRET"
                ))
            })
        };
        let issuer = take("_ISSUER")?;
        safe(&format!("{PREFIX}{name}_ISSUER"), &issuer)?;
        let lower = name.to_ascii_lowercase();
        if ["github", "google"].contains(&lower.as_str()) {
            return Err(bad(format!(
                "{PREFIX}{name}_ISSUER: take another name than {name}, which has settings of its own"
            )));
        }
        Ok(Settings {
            kind: Kind::Oidc(issuer.trim().to_owned()),
            client_id: take("_CLIENT_ID")?,
            client_secret: take("_CLIENT_SECRET")?,
            name: lower,
        })
    };
    found.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Vec<Settings>, BadConfig> {
        let pairs = pairs.iter();
        issuers(pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn an_issuer_has_three_variables_with_its_name_in_them() {
        let all = of(&[
            ("NULLRUN_OIDC_ACME_ISSUER", "https://login.acme.example"),
            ("NULLRUN_OIDC_ACME_CLIENT_ID", "id"),
            ("NULLRUN_OIDC_ACME_CLIENT_SECRET", "s3cret"),
            ("NULLRUN_OIDC_SOMETHING", "else"),
        ]);
        let all = all.unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].name, "acme");
        assert!(!format!("{all:?}").contains("s3cret"));
        let alone = of(&[("NULLRUN_OIDC_ACME_ISSUER", "https://login.acme.example")]);
        let why = alone.unwrap_err().to_string();
        assert!(why.contains("NULLRUN_OIDC_ACME_CLIENT_ID"), "{why}");
    }

    #[test]
    fn secrets_go_over_https_or_to_this_machine() {
        let safe = |url: &str| is_safe(&Url::parse(url).unwrap());
        assert!(safe("https://a.example") && safe("http://127.0.0.1:9") && safe("http://[::1]:9"));
        assert!(!safe("http://a.example") && !safe("http://127.0.0.1.a.example"));
        assert!(!safe("file:///etc/passwd"));
    }
}
