//! Prices that are set here.

use super::Refusal;
use super::check::{bounded, invalid};
use crate::directory::Directory;
use crate::limits;
use persist::record::{Change, ModelPrice, Rates};
use persist::{Millis, Nanos};

/// A price to be set.
#[derive(Debug, Clone)]
pub struct NewPrice {
    /// The model, lower case.
    pub model: String,
    /// The rates; none takes the price away again.
    pub rates: Option<Rates>,
    /// From when on; now when absent.
    pub effective_at: Option<Millis>,
}

impl NewPrice {
    /// Are its name and rates within their bounds?
    pub fn check(&self) -> Result<(), Refusal> {
        bounded("model_id", &self.model, limits::NAME_BYTES)?;
        let rate = |field, rate: Option<Nanos>| match rate {
            Some(rate) if !(Nanos::ZERO..=limits::RATE).contains(&rate) => Err(invalid(
                field,
                format!(
                    "{field} must be 0 to {} nano-dollars per million tokens",
                    limits::RATE.0
                ),
            )),
            _ => Ok(()),
        };
        if let Some(rates) = &self.rates {
            rate("input_nanos_per_mtok", Some(rates.input))?;
            rate("output_nanos_per_mtok", Some(rates.output))?;
            rate("cache_read_nanos_per_mtok", rates.cache_read)?;
            rate("cache_write_nanos_per_mtok", rates.cache_write)?;
            rate("reasoning_nanos_per_mtok", rates.reasoning)?;
        }
        Ok(())
    }
}

/// The change that sets a price; none if it is so already.
pub(super) fn set<'a>(
    directory: &Directory,
    now: Millis,
    price: &'a NewPrice,
) -> Result<Option<Change<'a>>, Refusal> {
    price.check()?;
    // A price that is set already is not set again: whoever repeats a request finishes it.
    let newest = directory.prices().of(&price.model).last();
    let same = newest.is_some_and(|newest| {
        let begun = newest.effective_at <= now;
        let effective = price
            .effective_at
            .map_or(begun, |at| at == newest.effective_at);
        newest.rates == price.rates && effective
    });
    if same || newest.is_none() && price.rates.is_none() {
        return Ok(None);
    }
    Ok(Some(Change::PriceSet(ModelPrice {
        model: &price.model,
        version: directory.prices().newest() + 1,
        rates: price.rates,
        effective_at: price.effective_at.unwrap_or(now),
        created_at: now,
    })))
}
