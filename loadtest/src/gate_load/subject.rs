//! Who the load speaks for: an account registered for the run, or keys that were given; and the comparison of that
//! organization's ledger with what was allowed.

use std::time::Duration;

use serde_json::json;

use super::Measured;
use super::drive::{FLOOR, GATE_TOKENS};
use crate::account::{Account, view};
use crate::client::{Caller, Connection, SdkKey};
use crate::error::{Error, Result};
use crate::identity::Dice;
use crate::ledger::{Ledger, Status};
use crate::report::{Violations, dollars};
use crate::wire::{HOLD_LIFETIME_SECS, OUTPUT_NANOS_PER_TOKEN};

/// Keys of an existing organization.
#[derive(Debug, Clone)]
pub struct GivenKeys {
    /// `nr_…`
    pub api_key: String,
    /// Its secret.
    pub secret_key: String,
}

/// An organization and a key of it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The key that asks.
    pub key: SdkKey,
    /// Organization id.
    pub org: String,
    /// With its session, when it was registered here: only then can the log be verified.
    account: Option<Account>,
}

impl Subject {
    /// Registers an account, or looks up whose the given keys are.
    pub async fn find(
        connection: &mut Connection,
        keys: Option<&GivenKeys>,
        dice: &mut Dice,
    ) -> Result<Self> {
        let Some(keys) = keys else {
            let account = Account::register(connection, dice).await?;
            let (key, org) = (account.key.clone(), account.org.clone());
            return Ok(Self {
                key,
                org,
                account: Some(account),
            });
        };
        let body = json!({"api_key": keys.api_key});
        let known = connection
            .post("/api/v1/auth/verify", Caller::Anonymous, &body)
            .await?
            .expect(&[200])?;
        let key = SdkKey::new(&keys.api_key, &keys.secret_key);
        Ok(Self {
            key,
            org: known.required("organization_id")?,
            account: None,
        })
    }

    /// An error with the remedy when the no-op route is not served.
    pub async fn require_floor(&self, connection: &mut Connection) -> Result<()> {
        let answer = connection.post_signed(FLOOR, &self.key, &json!({})).await?;
        if (200..300).contains(&answer.status) {
            return Ok(());
        }
        let status = answer.status;
        Err(Error::Usage(format!(
            "POST {FLOOR} answered {status}: start the gateway with NULLRUN_FLOOR_ROUTE=on to measure the floor"
        )))
    }

    /// Held by the organization now, in nano-dollars.
    pub async fn held_nanos(&self, connection: &mut Connection) -> Result<i64> {
        let caller = self
            .account
            .as_ref()
            .map_or(Caller::Key(&self.key), Account::operator);
        let path = format!("/api/v1/orgs/{}/status", self.org);
        let answer = connection.get(&path, caller).await?.expect(&[200])?;
        Ok(view::<Status>(&path, answer.body)?.totals.held_nanos)
    }

    /// Every allowed gate must be held, once: requests in doubt may or may not be. Holds are not compared when the
    /// first of them may have expired meanwhile. With given keys nobody else may be calling the organization.
    pub async fn compare(
        &self,
        connection: &mut Connection,
        held_before: i64,
        gates: &Measured,
        planned: Duration,
    ) -> Result<Violations> {
        let mut violations = Violations::default();
        let per_gate = GATE_TOKENS * OUTPUT_NANOS_PER_TOKEN;
        let nanos = |count: u64| {
            i64::try_from(count)
                .unwrap_or(i64::MAX)
                .saturating_mul(per_gate)
        };
        if planned.as_secs() * 2 < HOLD_LIFETIME_SECS {
            let added = self.held_nanos(connection).await? - held_before;
            let (least, most) = (nanos(gates.allowed), nanos(gates.allowed + gates.errors));
            violations.require((least..=most).contains(&added), || {
                format!(
                    "{} gates were allowed and {} are in doubt, so {} to {} must be held; it is {}",
                    gates.allowed,
                    gates.errors,
                    dollars(least),
                    dollars(most),
                    dollars(added)
                )
            });
        }
        violations.absorb(self.contradictions(connection).await?);
        Ok(violations)
    }

    /// Where the gateway's ledger contradicts itself; nothing without a session to read it with.
    pub async fn contradictions(&self, connection: &mut Connection) -> Result<Violations> {
        match &self.account {
            Some(account) => Ok(Ledger::read(connection, account).await?.contradictions()),
            None => Ok(Violations::default()),
        }
    }
}
