//! What tokens cost. Prices are integers: nano-dollars per million tokens.

use hashbrown::HashMap;
use persist::Nanos;
use persist::record::{Rated, Rates, Tokens};
use serde::Deserialize;
use std::borrow::Cow;

/// Prices of one model, in nano-dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Price {
    /// Prompt tokens.
    pub input: u64,
    /// Completion tokens.
    pub output: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: u64,
    /// Prompt tokens written to it.
    pub cache_write: u64,
    /// Reasoning tokens.
    pub reasoning: u64,
}

/// Does `input_tokens` already count what the cache served?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheCounting {
    /// Yes: OpenAI, Google, Mistral and those who copy them.
    InsideInput,
    /// No: Anthropic reports it beside.
    BesideInput,
}

impl From<Rates> for Price {
    /// What is not said costs what its kind costs otherwise.
    fn from(rates: Rates) -> Self {
        let rate = |rate: Nanos| rate.0.max(0).cast_unsigned();
        Self {
            input: rate(rates.input),
            output: rate(rates.output),
            cache_read: rate(rates.cache_read.unwrap_or(rates.input)),
            cache_write: rate(rates.cache_write.unwrap_or(rates.input)),
            reasoning: rate(rates.reasoning.unwrap_or(rates.output)),
        }
    }
}

/// A price and whether it is a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The figures.
    pub price: Price,
    /// How the provider counts.
    pub cache: CacheCounting,
    /// True when the model is unknown and the provisional price stands in.
    pub provisional: bool,
    /// Of a price that was set here: which; 0 for any other.
    pub version: u64,
    /// Stands in for a kind of token that the model is not sold by (an embedding model's output).
    /// None for a price that was set here: 0 in it means free.
    unsold: Option<Price>,
}

/// All known prices.
#[derive(Debug, Clone)]
pub struct PriceTable {
    models: HashMap<Box<str>, Price>,
    provisional: Price,
    /// Where the figures come from, for people.
    pub source: String,
}

/// The price file is unusable.
#[derive(Debug, thiserror::Error)]
#[error("the price table does not parse: {0}")]
pub struct BadTable(#[from] serde_json::Error);

#[derive(Deserialize)]
struct File {
    source: String,
    retrieved: String,
    provisional: Price,
    models: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    model: String,
    #[serde(flatten)]
    price: Price,
}

impl PriceTable {
    /// The table this build carries (`engine/data/prices.json`).
    ///
    /// # Errors
    /// If the file does not parse, which its test rules out.
    pub fn built_in() -> Result<Self, BadTable> {
        Self::from_json(include_str!("../data/prices.json"))
    }

    /// Reads a table in the form of `engine/data/prices.json`.
    pub fn from_json(text: &str) -> Result<Self, BadTable> {
        let file: File = serde_json::from_str(text)?;
        let models = file
            .models
            .into_iter()
            .map(|row| (row.model.into_boxed_str(), row.price))
            .collect();
        Ok(Self {
            models,
            provisional: file.provisional,
            source: format!("{} ({})", file.source, file.retrieved),
        })
    }

    /// Known models.
    #[must_use]
    pub fn len(&self) -> usize {
        self.models.len()
    }

    /// No model known?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// The names and prices of all models.
    pub fn models(&self) -> impl Iterator<Item = (&str, &Price)> {
        self.models.iter().map(|(name, price)| (&**name, price))
    }

    /// The price of exactly this model.
    #[must_use]
    pub fn price(&self, model: &str) -> Option<&Price> {
        self.models.get(model)
    }

    /// The price of a model. Dated and prefixed names resolve to their base; an unknown name gets
    /// the provisional price, never nothing.
    #[must_use]
    pub fn quote(&self, model: Option<&str>, provider: Option<&str>) -> Quote {
        let found = model.and_then(|model| self.find(model));
        Quote {
            price: *found.unwrap_or(&self.provisional),
            cache: counting(provider, model),
            provisional: found.is_none(),
            version: 0,
            unsold: Some(self.provisional),
        }
    }

    fn find(&self, model: &str) -> Option<&Price> {
        if let Some(found) = self.models.get(model) {
            return Some(found);
        }
        names(&lower(model)).find_map(|name| self.models.get(name))
    }
}

/// A model's name as names are compared.
#[must_use]
pub fn lower(model: &str) -> Cow<'_, str> {
    let model = model.trim();
    if model.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(model.to_ascii_lowercase())
    } else {
        Cow::Borrowed(model)
    }
}

/// The names a model may be sold under, its own first: without its date, then without what stands
/// before a slash (`openai/gpt-4o` → `gpt-4o`). `model` is in lower case.
pub fn names(model: &str) -> impl Iterator<Item = &str> {
    let rests = std::iter::successors(Some(model), |name| {
        name.split_once('/').map(|(_, rest)| rest)
    });
    rests.flat_map(|name| [Some(name), without_date(name)].into_iter().flatten())
}

/// Strips `-2024-07-18`, `-20241022`, `@20241022`, `-latest`, `:0`.
fn without_date(name: &str) -> Option<&str> {
    if let Some(base) = name.strip_suffix("-latest") {
        return Some(base);
    }
    if let Some((base, _)) = name.split_once(['@', ':']) {
        return Some(base);
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (base, last) = name.rsplit_once('-')?;
    if last.len() == 8 && digits(last) {
        return Some(base);
    }
    if last.len() == 2 && digits(last) {
        let (base, month) = base.rsplit_once('-')?;
        let (base, year) = base.rsplit_once('-')?;
        if month.len() == 2 && digits(month) && year.len() == 4 && digits(year) {
            return Some(base);
        }
    }
    None
}

/// How the tokens of an event are counted: as its provider does, or as whoever makes the model. It
/// depends on nothing but what was reported, so that a charge in the log can be split again.
fn counting(provider: Option<&str>, model: Option<&str>) -> CacheCounting {
    let named = provider.filter(|provider| !provider.is_empty());
    let name = named.or(model).unwrap_or_default();
    if holds(name, "anthropic") || holds(name, "claude") {
        CacheCounting::BesideInput
    } else {
        CacheCounting::InsideInput
    }
}

/// Does a text hold a word, in any case?
fn holds(text: &str, word: &str) -> bool {
    let mut places = text.as_bytes().windows(word.len());
    places.any(|place| place.eq_ignore_ascii_case(word.as_bytes()))
}

/// Tokens by the rate they are charged at.
///
/// A total without its parts counts as input.
#[must_use]
pub fn rated(tokens: &Tokens, model: Option<&str>, provider: Option<&str>) -> Rated {
    split(tokens, counting(provider, model))
}

fn split(tokens: &Tokens, cache: CacheCounting) -> Rated {
    let unsplit = tokens.input == 0 && tokens.output == 0;
    let input = if unsplit { tokens.total } else { tokens.input };
    let cached = tokens.cache_read.saturating_add(tokens.cache_write);
    let reasoning = tokens.reasoning.min(tokens.output);
    Rated {
        input: match cache {
            CacheCounting::InsideInput => input.saturating_sub(cached),
            CacheCounting::BesideInput => input,
        },
        output: tokens.output - reasoning,
        cache_read: tokens.cache_read,
        cache_write: tokens.cache_write,
        reasoning,
    }
}

impl Quote {
    /// A price that was set here.
    #[must_use]
    pub fn own(rates: Rates, version: u64, model: Option<&str>, provider: Option<&str>) -> Self {
        Self {
            price: rates.into(),
            cache: counting(provider, model),
            provisional: false,
            version,
            unsold: None,
        }
    }

    /// Tokens by the rate they are charged at.
    #[must_use]
    pub fn rated(&self, tokens: &Tokens) -> Rated {
        split(tokens, self.cache)
    }

    /// What these tokens cost: Σ tokens × price in 128 bits, then one division, half up, to
    /// nano-dollars (`docs/semantics.md`, "Cost of an event").
    #[must_use]
    pub fn cost(&self, tokens: &Tokens) -> Nanos {
        self.cost_of(&self.rated(tokens))
    }

    /// The same of tokens that are split already.
    #[must_use]
    pub fn cost_of(&self, tokens: &Rated) -> Nanos {
        let parts = self.parts(tokens).into_iter();
        let sum = parts.map(|(n, price, unsold)| {
            let price = if price == 0 { unsold } else { price };
            u128::from(n) * u128::from(price)
        });
        round(sum.fold(0, u128::saturating_add))
    }

    /// Is the cost of these tokens a guess?
    #[must_use]
    pub fn guesses(&self, tokens: &Tokens) -> bool {
        self.guesses_of(&self.rated(tokens))
    }

    /// The same of tokens that are split already.
    #[must_use]
    pub fn guesses_of(&self, tokens: &Rated) -> bool {
        let mut parts = self.parts(tokens).into_iter();
        let unsold = parts.any(|(n, price, unsold)| n > 0 && price == 0 && unsold > 0);
        self.provisional || unsold
    }

    /// Tokens of each kind, the price of that kind, and what stands in for a price of zero.
    fn parts(&self, tokens: &Rated) -> [(u64, u64, u64); 5] {
        let price = &self.price;
        let unsold = self.unsold.as_ref().unwrap_or(price);
        [
            (tokens.input, price.input, unsold.input),
            (tokens.cache_read, price.cache_read, unsold.cache_read),
            (tokens.cache_write, price.cache_write, unsold.cache_write),
            (tokens.output, price.output, unsold.output),
            (tokens.reasoning, price.reasoning, unsold.reasoning),
        ]
    }

    /// What a call may cost that declares its prompt and the most it will complete.
    #[must_use]
    pub fn declared(&self, input: u64, max_output: u64) -> Nanos {
        let sum = u128::from(input) * u128::from(self.price.input)
            + u128::from(max_output) * u128::from(self.price.output);
        round(sum)
    }
}

fn round(sum: u128) -> Nanos {
    const PER: u128 = 1_000_000;
    Nanos(i64::try_from((sum + PER / 2) / PER).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> PriceTable {
        PriceTable::built_in().unwrap()
    }

    fn tokens(input: u64, output: u64) -> Tokens {
        Tokens {
            total: input.saturating_add(output),
            input,
            output,
            ..Tokens::default()
        }
    }

    #[test]
    fn a_call_costs_its_tokens_times_the_price_exactly() {
        let quote = table().quote(Some("claude-haiku-4-5"), None);
        assert_eq!(quote.cost(&tokens(47, 0)), Nanos(47_000));
        assert_eq!(quote.declared(0, 20_000), Nanos::from_cents(10));
        let quote = table().quote(Some("gpt-4o-mini"), None);
        assert_eq!(quote.cost(&tokens(1_000_000, 0)), Nanos::from_cents(15));
        assert_eq!(quote.cost(&tokens(12, 5)), Nanos(12 * 150 + 5 * 600));
    }

    #[test]
    fn dated_and_prefixed_names_cost_what_their_base_costs() {
        let table = table();
        let base = table.quote(Some("gpt-4o-mini"), None);
        for name in [
            "gpt-4o-mini-2024-07-18",
            "openai/gpt-4o-mini",
            "GPT-4o-mini",
            "gpt-4o-mini-latest",
        ] {
            assert_eq!(table.quote(Some(name), None), base, "{name}");
        }
    }

    #[test]
    fn cached_tokens_are_inside_the_input_except_for_anthropic() {
        let table = table();
        let tokens = Tokens {
            total: 105,
            input: 100,
            output: 5,
            cache_read: 40,
            ..Tokens::default()
        };
        let openai = table.quote(Some("gpt-4o-mini"), Some("openai"));
        assert_eq!(openai.cost(&tokens), Nanos(60 * 150 + 40 * 75 + 5 * 600));
        let anthropic = table.quote(Some("claude-haiku-4-5"), Some("anthropic"));
        assert_eq!(
            anthropic.cost(&tokens),
            Nanos(100 * 1000 + 40 * 100 + 5 * 5000)
        );
        assert_eq!(table.quote(Some("claude-haiku-4-5"), None), anthropic);
    }

    #[test]
    fn who_makes_a_model_says_how_it_counts_unless_a_provider_is_named() {
        let table = table();
        let cache = |model, provider| table.quote(Some(model), provider).cache;
        for model in [
            "claude-haiku-4-5",
            "us.Anthropic.Claude-sonnet-5",
            "x/claude-9",
        ] {
            assert_eq!(cache(model, None), CacheCounting::BesideInput, "{model}");
            let openrouter = cache(model, Some("openrouter"));
            assert_eq!(openrouter, CacheCounting::InsideInput, "{model}");
        }
        assert_eq!(cache("gpt-4o", None), CacheCounting::InsideInput);
        assert_eq!(cache("gpt-4o", Some("")), CacheCounting::InsideInput);
    }

    #[test]
    fn a_price_of_zero_that_was_set_here_means_free() {
        let rates = Rates {
            input: Nanos(0),
            output: Nanos(7_000_000),
            cache_read: None,
            cache_write: None,
            reasoning: Some(Nanos(0)),
        };
        let quote = Quote::own(rates, 4, Some("m"), None);
        let tokens = Tokens {
            reasoning: 3,
            ..tokens(1_000_000, 5)
        };
        assert_eq!(quote.cost(&tokens), Nanos(14));
        assert!(!quote.guesses(&tokens));
    }

    #[test]
    fn an_unknown_model_costs_the_provisional_price_and_says_so() {
        let quote = table().quote(Some("never-heard-of-it"), None);
        assert!(quote.provisional);
        assert!(quote.cost(&tokens(1_000_000, 0)) > Nanos::ZERO);
        assert!(table().quote(None, None).provisional);
    }

    #[test]
    fn tokens_of_a_kind_a_model_is_not_sold_by_are_never_free() {
        let quote = table().quote(Some("text-embedding-3-small"), None);
        assert!(!quote.guesses(&tokens(1_000, 0)));
        assert!(quote.guesses(&tokens(1_000, 1_000)));
        assert!(quote.cost(&tokens(0, 100_000)) > Nanos::ZERO);
    }

    #[test]
    fn a_cost_is_rounded_once_half_up() {
        let one = Price {
            input: 1,
            output: 1,
            cache_read: 1,
            cache_write: 1,
            reasoning: 1,
        };
        let quote = Quote {
            price: one,
            cache: CacheCounting::InsideInput,
            provisional: false,
            version: 0,
            unsold: None,
        };
        assert_eq!(quote.cost(&tokens(499_999, 0)), Nanos(0));
        assert_eq!(quote.cost(&tokens(500_000, 0)), Nanos(1));
        let huge = tokens(u64::MAX, u64::MAX);
        assert_eq!(table().quote(Some("gpt-4o"), None).cost(&huge), Nanos::MAX);
    }
}
