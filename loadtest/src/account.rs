//! An account at a gateway, and the few management calls the scenarios make with it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Caller, Connection, SdkKey};
use crate::error::{Error, Result};
use crate::identity::Dice;

/// Password of every account the harness makes; they live on test gateways only.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A registered account with its session and its first key.
#[derive(Debug, Clone)]
pub struct Account {
    /// E-mail address it can sign in with.
    pub email: String,
    /// Organization id.
    pub org: String,
    /// The workflow made at registration.
    pub workflow: String,
    /// The key made at registration, bound to that workflow.
    pub key: SdkKey,
    /// Session token.
    pub session: String,
}

/// A key as its creation returned it.
#[derive(Debug, Clone)]
pub struct MintedKey {
    /// Id, for revocation.
    pub id: String,
    /// The key pair.
    pub key: SdkKey,
}

/// What `GET …/workflows/{id}` and the status page show of a workflow; unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WorkflowView {
    /// `Normal`, `Paused`, `Killed`, …
    pub state: String,
    /// Grows by one with every state change.
    pub version: i64,
    /// Cap in cents; `None` when there is none.
    pub budget_cents: Option<i64>,
    /// Booked so far this period, in nano-dollars.
    pub spent_nanos: i64,
    /// Reserved by open holds, in nano-dollars.
    pub held_nanos: i64,
    /// Cap minus spent minus held; `None` without a cap.
    pub remaining_nanos: Option<i64>,
}

impl Account {
    /// Registers a fresh account under an address that nobody used before.
    pub async fn register(connection: &mut Connection, dice: &mut Dice) -> Result<Self> {
        let email = format!("harness-{}@example.com", dice.uuid());
        let body = json!({
            "email": email, "password": PASSWORD, "name": "Harness", "organization_name": "Harness",
        });
        let made = connection
            .post("/api/v1/auth/register", Caller::Anonymous, &body)
            .await?
            .expect(&[201])?;
        Ok(Self {
            email,
            org: made.required("organization_id")?,
            workflow: made.required("workflow_id")?,
            key: SdkKey::new(made.required("api_key")?, &made.required("secret_key")?),
            session: made.required("session_token")?,
        })
    }

    /// Signs in again; the new session replaces the old one in this struct.
    pub async fn login(&mut self, connection: &mut Connection) -> Result<()> {
        let body = json!({"email": self.email, "password": PASSWORD});
        let signed_in = connection
            .post("/api/v1/auth/login", Caller::Anonymous, &body)
            .await?
            .expect(&[200])?;
        self.session = signed_in.required("session_token")?;
        Ok(())
    }

    /// The operator, as a caller.
    pub fn operator(&self) -> Caller<'_> {
        Caller::Session(&self.session)
    }

    /// `/api/v1/orgs/{org}` followed by `rest`.
    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/orgs/{}{rest}", self.org)
    }

    /// Makes a workflow and returns its id.
    pub async fn create_workflow(
        &self,
        connection: &mut Connection,
        name: &str,
        budget_cents: Option<i64>,
    ) -> Result<String> {
        let body = json!({"name": name, "budget_cents": budget_cents});
        let made = connection
            .post(&self.path("/workflows"), self.operator(), &body)
            .await?;
        made.expect(&[201])?.required("id")
    }

    /// Mints a key: bound to `workflow` when given, with a cap of its own when given.
    pub async fn create_key(
        &self,
        connection: &mut Connection,
        workflow: Option<&str>,
        budget_cents: Option<i64>,
    ) -> Result<MintedKey> {
        let mut body = json!({"name": "harness"});
        if let Some(workflow) = workflow {
            body["workflow_id"] = json!(workflow);
        }
        if let Some(cents) = budget_cents {
            body["budget_cents"] = json!(cents);
        }
        let made = connection
            .post(&self.path("/api-keys"), self.operator(), &body)
            .await?
            .expect(&[201])?;
        let key = SdkKey::new(made.required("api_key")?, &made.required("secret_key")?);
        Ok(MintedKey {
            id: made.required("id")?,
            key,
        })
    }

    /// Sets or removes the cap of a workflow, in cents.
    pub async fn set_workflow_budget(
        &self,
        connection: &mut Connection,
        workflow: &str,
        budget_cents: Option<i64>,
    ) -> Result<()> {
        let path = self.path(&format!("/workflows/{workflow}"));
        let body = json!({"budget_cents": budget_cents});
        connection
            .patch(&path, self.operator(), &body)
            .await?
            .expect(&[200])?;
        Ok(())
    }

    /// Sets or removes the organization's cap, in cents.
    pub async fn set_org_budget(
        &self,
        connection: &mut Connection,
        budget_cents: Option<i64>,
    ) -> Result<()> {
        let body = json!({"budget_cents": budget_cents});
        connection
            .patch(&self.path(""), self.operator(), &body)
            .await?
            .expect(&[200])?;
        Ok(())
    }

    /// `pause`, `resume` or `kill`.
    pub async fn change_state(
        &self,
        connection: &mut Connection,
        workflow: &str,
        verb: &str,
    ) -> Result<WorkflowView> {
        let path = self.path(&format!("/workflows/{workflow}/{verb}"));
        let body = json!({"reason": "harness"});
        let answer = connection
            .post(&path, self.operator(), &body)
            .await?
            .expect(&[200])?;
        view(&path, answer.body)
    }

    /// Reads a workflow.
    pub async fn workflow(&self, connection: &mut Connection, id: &str) -> Result<WorkflowView> {
        let path = self.path(&format!("/workflows/{id}"));
        let answer = connection
            .get(&path, self.operator())
            .await?
            .expect(&[200])?;
        view(&path, answer.body)
    }
}

/// Reads `value` as a `T`, or says which path answered something else.
pub(crate) fn view<T: serde::de::DeserializeOwned>(path: &str, value: Value) -> Result<T> {
    let shown: String = value.to_string().chars().take(600).collect();
    serde_json::from_value(value).map_err(|error| Error::Unexpected {
        request: path.to_owned(),
        status: 200,
        expected: format!("a readable body ({error})"),
        body: shown,
    })
}
