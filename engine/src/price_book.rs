//! Prices that were set here, beside the table in the build: by model, each holding from a time on,
//! until a later one. A price may be taken away again; then the one in the build holds, or none.

use crate::price::{self, PriceTable, Quote};
use imbl::OrdMap;
use persist::record::{ModelPrice, Rates};
use persist::{Day, Millis};
use std::sync::Arc;

/// One price of a model.
#[derive(Debug, Clone)]
pub struct PriceEntry {
    /// The model, lower case.
    pub model: Arc<str>,
    /// Of all prices ever set, the how manieth.
    pub version: u64,
    /// The rates; none takes them away.
    pub rates: Option<Rates>,
    /// From when on.
    pub effective_at: Millis,
    /// When set.
    pub created_at: Millis,
}

impl PriceEntry {
    /// As it is stored.
    #[must_use]
    pub fn to_record(&self) -> ModelPrice<'_> {
        ModelPrice {
            model: &self.model,
            version: self.version,
            rates: self.rates,
            effective_at: self.effective_at,
            created_at: self.created_at,
        }
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct PriceBook {
    /// Each model's, oldest version first.
    models: OrdMap<Arc<str>, Arc<[PriceEntry]>>,
    newest: u64,
}

impl PriceBook {
    /// Version of the newest price.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// Adds a price.
    pub fn set(&mut self, price: &ModelPrice<'_>) {
        let model: Arc<str> = price.model.into();
        let entry = PriceEntry {
            model: Arc::clone(&model),
            version: price.version,
            rates: price.rates,
            effective_at: price.effective_at,
            created_at: price.created_at,
        };
        let before = self.models.get(&model).into_iter();
        let all = before.flat_map(|all| all.iter().cloned()).chain([entry]);
        let all = all.collect();
        self.models.insert(model, all);
        self.newest = self.newest.max(price.version);
    }

    /// Every price of a model, oldest version first.
    #[must_use]
    pub fn of(&self, model: &str) -> &[PriceEntry] {
        self.models.get(model).map_or(&[], |all| all)
    }

    /// What holds for a model at `at`: of all prices that have begun by then, the one that was set
    /// last.
    #[must_use]
    pub fn at(&self, model: &str, at: Millis) -> Option<&PriceEntry> {
        let begun = self.of(model).iter().rev();
        begun
            .filter(|price| price.effective_at <= at)
            .max_by_key(|price| price.version)
            .filter(|price| price.rates.is_some())
    }

    /// Has no price ever been set?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// What one of a model's names was given here for `at`; `model` is in lower case.
    #[must_use]
    pub fn find(&self, model: &str, at: Millis) -> Option<&PriceEntry> {
        price::names(model).find_map(|name| self.at(name, at))
    }

    /// The price of a model at `at`: one that was set here, else the table's.
    #[must_use]
    pub fn quote(
        &self,
        table: &PriceTable,
        model: Option<&str>,
        provider: Option<&str>,
        at: Millis,
    ) -> Quote {
        // Most gateways have none of their own: then not even the name is looked at.
        let own = model.filter(|_| !self.is_empty()).and_then(|model| {
            let entry = self.find(&price::lower(model), at)?;
            let rates = entry.rates?;
            Some(Quote::own(rates, entry.version, Some(model), provider))
        });
        own.unwrap_or_else(|| table.quote(model, provider))
    }

    /// The last moment of a day.
    #[must_use]
    pub const fn end_of(day: Day) -> Millis {
        Millis(day.next().start().0.saturating_sub(1))
    }

    /// The moments of a day at which the price of a model may change, its beginning first.
    pub fn turns(&self, model: &str, day: Day) -> impl Iterator<Item = Millis> {
        let (first, last) = (day.start(), Self::end_of(day));
        let entries = price::names(model).flat_map(|name| self.of(name));
        let within = entries.map(|entry| entry.effective_at);
        let within = within.filter(move |at| *at > first && *at <= last);
        std::iter::once(first).chain(within)
    }

    /// Models with a price of their own.
    pub fn models(&self) -> impl Iterator<Item = &Arc<str>> {
        self.models.keys()
    }

    /// Every price, in the order in which they were set.
    #[must_use]
    pub fn all(&self) -> Vec<&PriceEntry> {
        let mut all: Vec<_> = self.models.values().flat_map(|all| all.iter()).collect();
        all.sort_by_key(|price| price.version);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persist::Nanos;

    fn set(book: &mut PriceBook, version: u64, input: Option<i64>, effective_at: u64) {
        book.set(&ModelPrice {
            model: "m",
            version,
            rates: input.map(|input| Rates {
                input: Nanos(input),
                output: Nanos(1),
                cache_read: None,
                cache_write: None,
                reasoning: None,
            }),
            effective_at: Millis(effective_at),
            created_at: Millis(0),
        });
    }

    #[test]
    fn the_price_that_was_set_last_holds_from_its_time_on() {
        let mut book = PriceBook::default();
        set(&mut book, 1, Some(10), 100);
        set(&mut book, 2, Some(20), 200);
        let version = |book: &PriceBook, at| book.at("m", Millis(at)).map(|price| price.version);
        assert_eq!(version(&book, 99), None);
        assert_eq!(version(&book, 199), Some(1));
        assert_eq!(version(&book, 200), Some(2));
        // A correction reaches back.
        set(&mut book, 3, Some(15), 100);
        assert_eq!(version(&book, 250), Some(3));
        set(&mut book, 4, None, 100);
        assert_eq!(version(&book, 250), None);
        assert_eq!((book.newest(), book.all().len()), (4, 4));
    }
}
