//! The first start in development: an account, shown once, with two ways to use it at once.

use crate::app::{App, reachable};
use crate::error::ApiResult;
use crate::hash;
use crate::manage::auth::{self, NewAccount};
use std::net::SocketAddr;

const EMAIL: &str = "owner@localhost";

/// Makes the account; returns what is shown.
pub async fn account(app: &App, address: SocketAddr) -> ApiResult<String> {
    let password = hash::random_word(20);
    let wanted = NewAccount {
        email: EMAIL,
        password: Some(password.clone()),
        name: Some("Owner"),
        org_name: Some("My organization"),
        ..NewAccount::default()
    };
    let made = auth::sign_up(app, wanted).await?;
    let (org, workflow) = (
        made.organization_id.unwrap_or_default(),
        made.workflow_id.unwrap_or_default(),
    );
    let (api_key, secret) = (
        made.api_key.unwrap_or_default(),
        made.secret_key.unwrap_or_default(),
    );
    let host = reachable(address);
    let url = format!("http://{host}");
    let curl = if app.config.hmac_required() {
        "Requests must be signed here; the client below signs them.".to_owned()
    } else {
        format!(
            r#"Ask from a shell:
curl -s {url}/api/v1/gate -H 'X-API-Key: {api_key}' -H 'Content-Type: application/json' -d '{{"model":"gpt-4o-mini","max_output_tokens":100,"tools":["hello"]}}'"#
        )
    };
    Ok(format!(
        r#"
First start: this account was made for you and is shown only now.
  sign in       {EMAIL} / {password}
  organization  {org}
  workflow      {workflow}
  API key       {api_key}
  secret        {secret}

{curl}

Ask from Python (pip install nullrun):
import nullrun
nullrun.init(api_key="{api_key}", api_url="{url}")
hello = nullrun.protect(lambda who: f"allowed: hello {{who}}")
print(hello("world"))

"#
    ))
}
