//! Prices on the wire: what is sent to set them, and what is shown.

use super::nullable;
use crate::clock;
use engine::price::Price;
use engine::price_book::PriceEntry;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a model costs from some time on. Absent stays as it is, null takes it off.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PricePatch)]
pub struct Patch {
    /// Nano-dollars per million tokens of prompt. Null here and in `output_nanos_per_mtok` takes the
    /// price away: the built-in one holds again, or none.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64, example = 150000000)]
    pub input_nanos_per_mtok: Option<Option<i64>>,
    /// Of completion.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64, example = 600000000)]
    pub output_nanos_per_mtok: Option<Option<i64>>,
    /// Read from the provider's cache; null: as input.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64)]
    pub cache_read_nanos_per_mtok: Option<Option<i64>>,
    /// Written to it; null: as input.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64)]
    pub cache_write_nanos_per_mtok: Option<Option<i64>>,
    /// Of reasoning; null: as output.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64)]
    pub reasoning_nanos_per_mtok: Option<Option<i64>>,
    /// From when on, in RFC 3339.
    #[schema(format = DateTime, example = "2026-11-01T00:00:00Z")]
    pub effective_at: Option<String>,
}

/// The same of a model that is named.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelPricePatch)]
pub struct Named {
    #[schema(max_length = 256, example = "acme-1-large")]
    pub model_id: String,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64, example = 150000000)]
    pub input_nanos_per_mtok: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64, example = 600000000)]
    pub output_nanos_per_mtok: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64)]
    pub cache_read_nanos_per_mtok: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64)]
    pub cache_write_nanos_per_mtok: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 10000000000000_i64)]
    pub reasoning_nanos_per_mtok: Option<Option<i64>>,
    #[schema(format = DateTime)]
    pub effective_at: Option<String>,
}

impl Named {
    /// The name, and what is said of it.
    #[must_use]
    pub fn split(self) -> (String, Patch) {
        let patch = Patch {
            input_nanos_per_mtok: self.input_nanos_per_mtok,
            output_nanos_per_mtok: self.output_nanos_per_mtok,
            cache_read_nanos_per_mtok: self.cache_read_nanos_per_mtok,
            cache_write_nanos_per_mtok: self.cache_write_nanos_per_mtok,
            reasoning_nanos_per_mtok: self.reasoning_nanos_per_mtok,
            effective_at: self.effective_at,
        };
        (self.model_id, patch)
    }
}

/// Prices of several models.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PricesPatch)]
pub struct PatchAll {
    #[schema(min_items = 1, max_items = 100)]
    pub models: Vec<Named>,
}

/// Prices for models that had none, or nothing to see which these are.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MissingPrices)]
pub struct MissingBody {
    /// Effective from the beginning unless said otherwise; what was charged for these models at
    /// another price is booked anew.
    #[schema(min_items = 1, max_items = 100)]
    pub models: Option<Vec<Named>>,
}

/// Where a price comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PriceSource)]
pub enum Source {
    /// From this version of the gateway.
    BuiltIn,
    /// It was set here.
    Set,
}

/// Nano-dollars per million tokens, each kind said.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = PriceRates)]
pub struct RatesShown {
    #[schema(example = 150000000)]
    pub input_nanos_per_mtok: u64,
    #[schema(example = 600000000)]
    pub output_nanos_per_mtok: u64,
    pub cache_read_nanos_per_mtok: u64,
    pub cache_write_nanos_per_mtok: u64,
    pub reasoning_nanos_per_mtok: u64,
}

/// What a model costs now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelPrice)]
pub struct Shown {
    #[schema(example = "gpt-4o-mini")]
    pub model_id: String,
    pub source: Source,
    /// Grows with each price that is set, of any model; 0 for a built-in one.
    pub version: u64,
    #[serde(flatten)]
    pub rates: RatesShown,
    /// From when on; null for a built-in one.
    pub effective_at: Option<String>,
    /// When set; null for a built-in one.
    pub created_at: Option<String>,
}

/// One price that was set.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PriceVersion)]
pub struct Version {
    pub version: u64,
    /// Null where the price was taken away.
    pub rates: Option<RatesShown>,
    pub effective_at: String,
    pub created_at: String,
}

/// A model with every price it had.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelPriceHistory)]
pub struct History {
    pub model_id: String,
    /// What it costs now; null if it has no price, and what it is charged at is a guess.
    pub price: Option<Shown>,
    pub built_in: Option<RatesShown>,
    /// What was set here, oldest first.
    pub history: Vec<Version>,
}

/// A model that was charged for without a price.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UnpricedModel)]
pub struct Missing {
    /// As it was reported, in lower case.
    pub model_id: String,
    pub charges: u64,
    pub tokens: u64,
    /// What is booked for them at the provisional price.
    pub provisional_cost_nanos: i64,
    #[schema(example = "2026-11-01")]
    pub first_day: String,
    #[schema(example = "2026-11-26")]
    pub last_day: String,
    /// How many organizations.
    pub organizations: u64,
}

/// What became of the charges for a model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RepricedModel)]
pub struct Corrected {
    pub model_id: String,
    /// Of the price that holds now; 0 if it is not one that was set here.
    pub version: u64,
    /// Correcting entries in the ledger: one for each day, workflow, key and reported name whose
    /// charges were booked at another price.
    pub entries: u64,
    /// Charges behind them.
    pub charges: u64,
    pub before_nanos: i64,
    pub after_nanos: i64,
}

/// What has no price, and what was booked anew.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MissingPricesAnswer)]
pub struct MissingShown {
    /// Models without a price, after the prices of this request.
    pub data: Vec<Missing>,
    /// One for each model of this request.
    pub corrected: Vec<Corrected>,
}

impl RatesShown {
    /// All rates of a price.
    #[must_use]
    pub const fn of(price: &Price) -> Self {
        Self {
            input_nanos_per_mtok: price.input,
            output_nanos_per_mtok: price.output,
            cache_read_nanos_per_mtok: price.cache_read,
            cache_write_nanos_per_mtok: price.cache_write,
            reasoning_nanos_per_mtok: price.reasoning,
        }
    }
}

/// A price that was set here; none where it was taken away.
#[must_use]
pub fn own(model: &str, entry: &PriceEntry) -> Option<Shown> {
    Some(Shown {
        model_id: model.to_owned(),
        source: Source::Set,
        version: entry.version,
        rates: RatesShown::of(&entry.rates?.into()),
        effective_at: Some(clock::rfc3339(entry.effective_at)),
        created_at: Some(clock::rfc3339(entry.created_at)),
    })
}

/// A built-in price.
#[must_use]
pub fn built_in(model: &str, price: &Price) -> Shown {
    Shown {
        model_id: model.to_owned(),
        source: Source::BuiltIn,
        version: 0,
        rates: RatesShown::of(price),
        effective_at: None,
        created_at: None,
    }
}
