//! Plans: how much an org may have, and which features. The table is a setting of whoever runs the
//! gateway; nothing here knows any plan by name but the one without limits.

use serde::Deserialize;

/// The plan of a gateway that has no table: all features, no limits.
pub const SELF_HOSTED: &str = "self-hosted";

/// How much there may be; no limit where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Workflows.
    pub workflows: Option<u32>,
    /// Calls allowed in a calendar month (UTC).
    pub executions_per_month: Option<u64>,
    /// Days of history (shown, not enforced).
    pub history_days: Option<u32>,
    /// Members and open invitations.
    pub seats: Option<u32>,
    /// Keys that are not revoked.
    pub api_keys: Option<u32>,
    /// Policies.
    pub policies: Option<u32>,
    /// Policies that ask a person.
    pub approval_rules: Option<u32>,
    /// Tokens reported in an hour (shown, not enforced).
    pub tokens_per_hour: Option<u64>,
    /// Calls per second.
    pub requests_per_second: Option<u32>,
}

/// What a plan has; what is not named, it has. Only those of [`Feature`] are asked for; the others are
/// shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Features {
    /// Policies about tools.
    pub custom_policies: bool,
    /// Calls that wait for a person.
    pub approvals: bool,
    /// Alerts (shown, not enforced).
    pub alerts: bool,
    /// The audit log (shown, not enforced).
    pub audit_log: bool,
    /// More than one member.
    pub team: bool,
    /// Roles (shown, not enforced).
    pub rbac: bool,
    /// Replays of recorded traffic (shown, not enforced).
    pub replay: bool,
    /// Signing in through a provider (shown, not enforced).
    pub sso: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            custom_policies: true,
            approvals: true,
            alerts: true,
            audit_log: true,
            team: true,
            rbac: true,
            replay: true,
            sso: true,
        }
    }
}

/// A feature that something is refused for the lack of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Policies about tools.
    CustomPolicies,
    /// Calls that wait for a person's approval.
    Approvals,
    /// More than one member.
    Team,
}

impl Feature {
    /// On the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CustomPolicies => "custom_policies",
            Self::Approvals => "approvals",
            Self::Team => "team",
        }
    }

    const fn is_in(self, features: &Features) -> bool {
        match self {
            Self::CustomPolicies => features.custom_policies,
            Self::Approvals => features.approvals,
            Self::Team => features.team,
        }
    }
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What orgs have it by.
    pub name: String,
    /// For people.
    pub title: String,
    /// How much.
    #[serde(default)]
    pub limits: Limits,
    /// What.
    #[serde(default)]
    pub features: Features,
}

impl Plan {
    /// Does it have this feature?
    #[must_use]
    pub const fn has(&self, feature: Feature) -> bool {
        feature.is_in(&self.features)
    }
}

/// All plans, in the order people are shown them.
#[derive(Debug, Clone)]
pub struct PlanTable {
    plans: Vec<Plan>,
    /// The name of the one that new orgs get.
    default: String,
    unlimited: Plan,
}

impl Default for PlanTable {
    /// The table of a gateway that was given none.
    fn default() -> Self {
        let unlimited = Plan {
            name: SELF_HOSTED.to_owned(),
            title: "Self-hosted".to_owned(),
            ..Plan::default()
        };
        Self::new(vec![unlimited], SELF_HOSTED.to_owned())
    }
}

impl PlanTable {
    /// These plans; new orgs get the one named `default`.
    #[must_use]
    pub fn new(plans: Vec<Plan>, default: String) -> Self {
        let unlimited = Plan {
            title: "without limits".to_owned(),
            ..Plan::default()
        };
        Self {
            plans,
            default,
            unlimited,
        }
    }

    /// The name of the plan that new orgs get.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// A plan, if it is in the table.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.name == name)
    }

    /// The plan of an org. One that was taken out of the table limits nothing: a setting must not
    /// stop an org from one start to the next.
    #[must_use]
    pub fn of(&self, name: &str) -> &Plan {
        self.get(name).unwrap_or(&self.unlimited)
    }

    /// All plans.
    pub fn iter(&self) -> impl Iterator<Item = &Plan> {
        self.plans.iter()
    }
}
