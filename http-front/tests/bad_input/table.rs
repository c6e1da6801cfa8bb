//! Every route with a body: what it takes.

#![allow(
    dead_code,
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

use super::described;
use super::probes::Kind;
use hyper::Method;
use serde_json::{Value, json};

/// A field, by its path in the body.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub path: &'static str,
    pub kind: Kind,
    /// Without it the request is refused.
    pub needed: bool,
    /// Null is refused as well.
    pub not_null: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Nobody,
    Key,
    Person,
    /// Whoever registered first.
    Admin,
}

/// One route, with a body that is right.
#[derive(Debug, Clone)]
pub struct Row {
    pub method: Method,
    pub path: &'static str,
    pub who: Who,
    pub right: Value,
    pub fields: Vec<Field>,
    /// Nothing at all is as good as an empty object.
    pub may_be_empty: bool,
}

fn may(path: &'static str, kind: Kind) -> Field {
    Field {
        path,
        kind,
        needed: false,
        not_null: false,
    }
}

fn must(path: &'static str, kind: Kind) -> Field {
    Field {
        needed: true,
        not_null: true,
        ..may(path, kind)
    }
}

fn not_null(path: &'static str, kind: Kind) -> Field {
    Field {
        not_null: true,
        ..may(path, kind)
    }
}

fn row(
    method: Method,
    path: &'static str,
    who: Who,
    right: Value,
    fields: impl IntoIterator<Item = Field>,
) -> Row {
    Row {
        method,
        path,
        who,
        right,
        fields: fields.into_iter().collect(),
        may_be_empty: false,
    }
}

const COUNTS: [&str; 6] = [
    "tokens",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
];
const DESCRIPTIONS: [&str; 14] = [
    "type",
    "reservation_id",
    "execution_id",
    "workflow_id",
    "model",
    "provider",
    "tool_name",
    "trace_id",
    "span_id",
    "parent_span_id",
    "agent_id",
    "error",
    "depth",
    "latency_ms",
];

/// The fields of one reported event.
pub fn event() -> Vec<Field> {
    let mut fields = vec![may("event_id", Kind::Lookup(128))];
    fields.extend(COUNTS.map(|name| may(name, Kind::Reported)));
    fields.extend(DESCRIPTIONS.map(|name| may(name, Kind::Any)));
    fields.push(may("no_such_field", Kind::Any));
    fields
}

fn questions() -> impl Iterator<Item = Row> {
    let free = [
        "execution_id",
        "trace_id",
        "operation_id",
        "approval_id",
        "action_digest",
        "model",
        "chain_op",
    ];
    ["/api/v1/gate", "/api/v1/execute", "/api/v1/check"]
        .into_iter()
        .map(move |path| {
            let mut fields: Vec<_> = free.map(|name| may(name, Kind::Free)).into();
            fields.extend([
                may("organization_id", Kind::Own),
                may("tool", Kind::Weighed(256)),
                may("tools", Kind::Tools),
                may("estimated_tokens", Kind::Count),
                may("max_output_tokens", Kind::Count),
                may("chain_id", Kind::Weighed(128)),
                may("max_cents", Kind::ChainCents),
            ]);
            let right = json!({ "chain_id": "bad input" });
            row(Method::POST, path, Who::Key, right, fields)
        })
}

fn workflow(path: &'static str, method: Method) -> Row {
    let creating = method == Method::POST;
    let name = if creating { must } else { may };
    // A window is of a threshold.
    let right = json!({ "name": "w", "enforcement_mode": "Soft", "loop_threshold": 5 });
    row(
        method,
        path,
        Who::Person,
        right,
        [
            name("name", Kind::Text(255)),
            may("external_id", Kind::Text(64)),
            may("budget_cents", Kind::Cents),
            may("budget_period", Kind::Word("week")),
            may("enforcement_mode", Kind::Word("soft")),
            may("max_overdraft_cents", Kind::Cents),
            may("max_overdraft_percent", Kind::Whole(0, 1000)),
            may("max_per_call_cents", Kind::Cents),
            may("chain_max_cents", Kind::Cents),
            may("max_chain_duration_seconds", Kind::Whole(1, 604_800)),
        ],
    )
}

fn policies() -> Vec<Row> {
    let create = |kind: &str, config: Value, more: Vec<Field>| {
        let right = json!({ "name": "p", "policy_type": kind, "config": config });
        let path = "/api/v1/orgs/{org}/policies";
        let fields = more.into_iter().chain([must("name", Kind::Text(80))]);
        row(Method::POST, path, Who::Person, right, fields)
    };
    let patch = |fields: Vec<Field>| {
        let path = "/api/v1/orgs/{org}/policies/{id}";
        row(Method::PATCH, path, Who::Person, json!({}), fields)
    };
    let matching = [
        not_null("match.tools", Kind::Patterns),
        not_null("match.models", Kind::Patterns),
        may("match.min_cost_cents", Kind::Cents),
    ];
    let overdraft = json!({ "budget_cents": 5, "enforcement_mode": "Soft" });
    let of_all = [
        must("policy_type", Kind::Word("BudgetLimit")),
        may("scope", Kind::Word("Org")),
        may("scope_id", Kind::Id),
        may("workflow_id", Kind::Id),
        may("api_key_id", Kind::Id),
        may("priority", Kind::Whole(i32::MIN.into(), i32::MAX.into())),
        may("action", Kind::Word("flag")),
        may("match", Kind::Object),
        not_null("config", Kind::Object),
        may("is_active", Kind::Flag),
        may("mode", Kind::Word("shadow")),
        may("enforcement_mode", Kind::Word("Hard")),
        must("config.budget_cents", Kind::Cents),
        not_null("config.budget_period", Kind::Word("week")),
        not_null("config.enforcement_mode", Kind::Word("soft")),
        may("config.max_overdraft_cents", Kind::Cents),
        may("config.max_overdraft_percent", Kind::Whole(0, 1000)),
    ];
    let calls = Kind::Whole(1, 1_000_000);
    let empty = |path, right, fields: Vec<Field>| Row {
        may_be_empty: true,
        ..row(Method::POST, path, Who::Person, right, fields)
    };
    let toggle = empty(
        "/api/v1/orgs/{org}/policies/{id}/toggle",
        json!({ "is_active": true }),
        vec![may("is_active", Kind::Flag)],
    );
    let enable = empty(
        "/api/v1/orgs/{org}/policies/templates/{id}/enable",
        json!({}),
        vec![
            may("scope", Kind::Word("Org")),
            may("scope_id", Kind::Id),
            may("workflow_id", Kind::Id),
            may("api_key_id", Kind::Id),
            may("mode", Kind::Word("enforce")),
        ],
    );
    let mut first = of_all.to_vec();
    first.extend(matching);
    vec![
        create("BudgetLimit", overdraft, first),
        create(
            "RateLimit",
            json!({ "max_calls_per_minute": 5 }),
            vec![must("config.max_calls_per_minute", calls)],
        ),
        create(
            "LoopDetection",
            json!({}),
            vec![
                may("config.loop_threshold", Kind::Whole(2, 1000)),
                may("config.loop_window_secs", Kind::Whole(1, 3600)),
            ],
        ),
        create(
            "ToolBlock",
            json!({ "tool_pattern": ["x"] }),
            vec![must("config.tool_pattern", Kind::Patterns)],
        ),
        patch(vec![
            may("name", Kind::Text(80)),
            may("policy_type", Kind::Word("RateLimit")),
            may("priority", Kind::Whole(i32::MIN.into(), i32::MAX.into())),
            may("action", Kind::Word("flag")),
            may("match", Kind::Object),
            may("config", Kind::Object),
            may("is_active", Kind::Flag),
            may("mode", Kind::Word("shadow")),
            not_null("config.max_calls_per_minute", calls),
            matching[0],
            matching[1],
            matching[2],
        ]),
        toggle,
        enable,
        evaluate(),
    ]
}

fn evaluate() -> Row {
    let path = "/api/v1/orgs/{org}/policies/evaluate";
    let fields = [
        must("workflow_id", Kind::Id),
        may("api_key_id", Kind::Id),
        may("tool", Kind::Weighed(256)),
        may("tools", Kind::Tools),
        may("model", Kind::Free),
        may("estimated_tokens", Kind::Whole(0, 1_000_000_000_000)),
        may("max_output_tokens", Kind::Whole(0, 1_000_000_000_000)),
        may("projected_cost_cents", Kind::Cents),
        may("chain_id", Kind::Lookup(128)),
        may("calls_before", Kind::Whole(0, 1_000_000)),
        may("tool_calls_before", Kind::Whole(0, 1_000_000)),
        may("policies", Kind::Drafts),
    ];
    let right = json!({ "workflow_id": "WORKFLOW", "policies": [] });
    row(Method::POST, path, Who::Person, right, fields)
}

fn people() -> Vec<Row> {
    let register = json!({ "email": "EMAIL", "password": "long enough by far" });
    let login = json!({ "email": "EMAIL", "password": "wrong wrong wrong" });
    let path = "/api/v1/auth/register";
    let fields = [
        must("email", Kind::Tried),
        must("password", Kind::Tried),
        may("organization_name", Kind::Text(100)),
    ];
    vec![
        row(Method::POST, path, Who::Nobody, register, fields),
        row(
            Method::POST,
            "/api/v1/auth/login",
            Who::Nobody,
            login,
            [must("email", Kind::Tried), must("password", Kind::Tried)],
        ),
        row(
            Method::PATCH,
            "/api/v1/auth/user",
            Who::Person,
            json!({ "name": "n" }),
            [may("name", Kind::Note(255))],
        ),
        row(
            Method::POST,
            "/api/v1/auth/password",
            Who::Person,
            json!({ "current_password": "correct horse battery staple", "new_password": "long enough by far" }),
            [
                must("current_password", Kind::Tried),
                must("new_password", Kind::Tried),
            ],
        ),
        row(
            Method::POST,
            "/api/v1/auth/password/forgot",
            Who::Nobody,
            json!({ "email": "nobody@example.com" }),
            [must("email", Kind::Tried)],
        ),
        row(
            Method::POST,
            "/api/v1/auth/password/reset",
            Who::Nobody,
            json!({ "token": "none", "password": "long enough by far" }),
            [must("token", Kind::Tried), must("password", Kind::Tried)],
        ),
        row(
            Method::POST,
            "/api/v1/auth/email/verify",
            Who::Person,
            json!({ "token": "none" }),
            [must("token", Kind::Tried)],
        ),
        // A provider that is not set up: what one that is would say is tried in `auth/providers.rs`.
        row(
            Method::POST,
            "/api/v1/auth/oauth/register",
            Who::Nobody,
            json!({
                "provider": "none", "code": "c", "code_verifier": "v".repeat(43),
                "redirect_uri": "https://example.com/back", "state": "s",
            }),
            ["provider", "code", "code_verifier", "redirect_uri", "state"]
                .map(|name| must(name, Kind::Tried))
                .into_iter()
                .chain([not_null("nonce", Kind::Tried)]),
        ),
    ]
}

/// Every route with a body, and every field that is documented. A route may have several rows.
pub fn table() -> Vec<Row> {
    let mut rows = by_hand();
    described::complete(&mut rows);
    rows
}

/// What needs more than a schema says: who asks, with which body, and fields with a meaning.
fn by_hand() -> Vec<Row> {
    let mut rows: Vec<Row> = questions().collect();
    rows.push(row(
        Method::POST,
        "/api/v1/track",
        Who::Key,
        json!({ "model": "claude-haiku-4-5" }),
        event(),
    ));
    rows.push(row(
        Method::POST,
        "/api/v1/track/batch",
        Who::Key,
        json!({ "events": [{ "type": "span_start" }] }),
        [must("events", Kind::Events)],
    ));
    for (path, field) in [
        ("/api/v1/cancel", "execution_id"),
        ("/api/v1/heartbeat", "chain_id"),
    ] {
        let right = json!({ field: "x" });
        let fields = [must(field, Kind::Lookup(128))];
        rows.push(row(Method::POST, path, Who::Key, right, fields));
    }
    for path in ["/api/v1/auth/verify", "/auth/verify"] {
        let fields = [may("api_key", Kind::Id)];
        rows.push(Row {
            may_be_empty: true,
            ..row(Method::POST, path, Who::Key, json!({}), fields)
        });
    }
    rows.extend(people());
    rows.push(row(
        Method::PATCH,
        "/api/v1/orgs/{org}",
        Who::Person,
        json!({ "budget_period": "month" }),
        [
            may("name", Kind::Text(100)),
            may("contact_email", Kind::Tried),
            may("budget_cents", Kind::Cents),
            // At least one field must be there.
            must("budget_period", Kind::Word("rolling_30_days")),
            may("composition", Kind::Word("most_restrictive")),
        ],
    ));
    rows.extend(members());
    rows.push(workflow("/api/v1/orgs/{org}/workflows", Method::POST));
    rows.push(workflow("/api/v1/orgs/{org}/workflows/{id}", Method::PATCH));
    for path in [
        "/api/v1/orgs/{org}/workflows/{id}/pause",
        "/api/v1/orgs/{org}/workflows/{id}/resume",
        "/api/v1/orgs/{org}/workflows/{id}/kill",
    ] {
        let fields = [may("reason", Kind::Note(500))];
        rows.push(Row {
            may_be_empty: true,
            ..row(Method::POST, path, Who::Person, json!({}), fields)
        });
    }
    rows.extend(policies());
    rows.push(row(
        Method::POST,
        "/api/v1/orgs/{org}/holds/{id}/release",
        Who::Person,
        json!({ "reason": "r" }),
        [must("reason", Kind::Text(500))],
    ));
    rows.extend(keys());
    rows.extend(prices());
    rows.push(row(
        Method::PATCH,
        "/api/v1/admin/orgs/{org}",
        Who::Admin,
        json!({ "plan": "self-hosted" }),
        [must("plan", Kind::Word("self-hosted"))],
    ));
    rows
}

fn members() -> Vec<Row> {
    let create = row(
        Method::POST,
        "/api/v1/orgs",
        Who::Person,
        json!({ "name": "o" }),
        [
            must("name", Kind::Text(100)),
            may("contact_email", Kind::Tried),
        ],
    );
    let role = must("role", Kind::Word("operator"));
    let invite = row(
        Method::POST,
        "/api/v1/orgs/{org}/invites",
        Who::Person,
        json!({ "email": "EMAIL", "role": "viewer" }),
        [must("email", Kind::Tried), role],
    );
    let member = row(
        Method::PATCH,
        "/api/v1/orgs/{org}/members/{id}",
        Who::Person,
        json!({ "role": "viewer" }),
        [role],
    );
    // Each token works once: what is taken is tried in `auth/invites.rs`.
    let accept = row(
        Method::POST,
        "/api/v1/invites/{token}/accept",
        Who::Nobody,
        json!({ "password": "correct horse battery staple" }),
        [must("password", Kind::Tried), not_null("name", Kind::Tried)],
    );
    vec![create, invite, member, accept]
}

fn prices() -> Vec<Row> {
    let rate = Kind::Whole(0, 10_000_000_000_000);
    let right = json!({ "input_nanos_per_mtok": 1, "output_nanos_per_mtok": 2 });
    let mut named = right.clone();
    named["model_id"] = json!("bad-input");
    let named = json!({ "models": [named] });
    let one = [
        not_null("input_nanos_per_mtok", rate),
        not_null("output_nanos_per_mtok", rate),
        may("cache_read_nanos_per_mtok", rate),
        may("cache_write_nanos_per_mtok", rate),
        may("reasoning_nanos_per_mtok", rate),
        may("effective_at", Kind::Moment),
    ];
    let path = "/api/v1/admin/pricing/{id}";
    let one = row(Method::PATCH, path, Who::Admin, right, one);
    let path = "/api/v1/admin/pricing";
    let models = [must("models", Kind::Objects)];
    let all = row(Method::PATCH, path, Who::Admin, named.clone(), models);
    let path = "/api/v1/admin/pricing/missing";
    let models = [may("models", Kind::Objects)];
    let missing = Row {
        may_be_empty: true,
        ..row(Method::POST, path, Who::Admin, named, models)
    };
    vec![one, all, missing]
}

fn keys() -> Vec<Row> {
    let mint = [
        may("name", Kind::Text(80)),
        may("scopes", Kind::Words),
        may("budget_cents", Kind::Cents),
        may("budget_period", Kind::Word("day")),
        may("max_calls_per_minute", Kind::Whole(1, 1_000_000)),
        may("test_key", Kind::Flag),
        may("expires_at", Kind::Time),
    ];
    let right = json!({ "name": "k" });
    let path = "/api/v1/orgs/{org}/api-keys";
    let workflow = may("workflow_id", Kind::Id);
    let anywhere = mint.iter().copied().chain([workflow]);
    let anywhere = row(Method::POST, path, Who::Person, right.clone(), anywhere);
    let path = "/api/v1/orgs/{org}/workflows/{id}/api-keys";
    let bound = row(Method::POST, path, Who::Person, right, mint);
    let path = "/api/v1/orgs/{org}/api-keys/{id}/rotate";
    let overlap = [may("overlap_secs", Kind::Whole(0, 86_400))];
    let rotate = Row {
        may_be_empty: true,
        ..row(Method::POST, path, Who::Person, json!({}), overlap)
    };
    vec![anywhere, bound, rotate]
}

/// Routes with a method for bodies that read none.
pub const NO_BODY: [&str; 6] = [
    "/api/v1/orgs/{org}/invites/{id}/resend",
    "/api/v1/invites/{token}/decline",
    "/api/v1/policies",
    "/floor",
    "/api/v1/auth/logout",
    "/api/v1/auth/email/send",
];

const PLACE: &str = "@PLACE@";

/// The row's body with `raw` in a field's place, or without the field.
pub fn with(right: &Value, field: &str, raw: Option<&str>) -> String {
    let mut body = right.clone();
    let mut at = &mut body;
    let mut path = field.split('.').peekable();
    while let Some(name) = path.next() {
        let fields = at.as_object_mut().unwrap();
        if path.peek().is_some() {
            at = fields.entry(name).or_insert(json!({}));
        } else if raw.is_some() {
            fields.insert(name.to_owned(), json!(PLACE));
            break;
        } else {
            fields.remove(name);
            break;
        }
    }
    let quoted = format!("\"{PLACE}\"");
    body.to_string().replace(&quoted, raw.unwrap_or_default())
}
