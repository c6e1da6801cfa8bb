//! What tokens cost. Prices are integers: nano-dollars per million tokens.

use hashbrown::HashMap;
use persist::Nanos;
use persist::record::Tokens;
use serde::Deserialize;

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

/// A price and whether it is a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The figures.
    pub price: Price,
    /// How the provider counts.
    pub cache: CacheCounting,
    /// True when the model is unknown and the provisional price stands in.
    pub provisional: bool,
    /// Stands in for a kind of token that the model is not sold by (an embedding model's output).
    unsold: Price,
}

/// All known prices.
#[derive(Debug, Clone)]
pub struct PriceTable {
    models: HashMap<Box<str>, (Price, CacheCounting)>,
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
    provider: String,
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
            .map(|row| {
                (
                    row.model.into_boxed_str(),
                    (row.price, counting(&row.provider, "")),
                )
            })
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

    /// The price of a model. Dated and prefixed names resolve to their base; an unknown name gets
    /// the provisional price, never nothing.
    #[must_use]
    pub fn quote(&self, model: Option<&str>, provider: Option<&str>) -> Quote {
        let found = model.and_then(|model| self.find(model));
        let provider = provider.unwrap_or("");
        match found {
            Some((price, known)) => Quote {
                price: *price,
                cache: if provider.is_empty() {
                    *known
                } else {
                    counting(provider, "")
                },
                provisional: false,
                unsold: self.provisional,
            },
            None => Quote {
                price: self.provisional,
                cache: counting(provider, model.unwrap_or("")),
                provisional: true,
                unsold: self.provisional,
            },
        }
    }

    fn find(&self, model: &str) -> Option<&(Price, CacheCounting)> {
        if let Some(found) = self.models.get(model) {
            return Some(found);
        }
        let lower = model.trim().to_ascii_lowercase();
        let mut name = lower.as_str();
        loop {
            if let Some(found) = self.models.get(name) {
                return Some(found);
            }
            if let Some(base) = without_date(name)
                && let Some(found) = self.models.get(base)
            {
                return Some(found);
            }
            // `openai/gpt-4o` → `gpt-4o`.
            name = name.split_once('/')?.1;
        }
    }
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

fn counting(provider: &str, model: &str) -> CacheCounting {
    let anthropic = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.contains("anthropic") || text.contains("claude")
    };
    if anthropic(provider) || (provider.is_empty() && anthropic(model)) {
        CacheCounting::BesideInput
    } else {
        CacheCounting::InsideInput
    }
}

impl Quote {
    /// What these tokens cost: Σ tokens × price in 128 bits, then one division, half up, to
    /// nano-dollars (`docs/semantics.md`, "Cost of an event").
    ///
    /// A total without its parts counts as input.
    #[must_use]
    pub fn cost(&self, tokens: &Tokens) -> Nanos {
        let sum = self
            .parts(tokens)
            .iter()
            .map(|(n, price, unsold)| {
                let price = if *price == 0 { unsold } else { price };
                u128::from(*n) * u128::from(*price)
            })
            .sum();
        round(sum)
    }

    /// Is the cost of these tokens a guess?
    #[must_use]
    pub fn guesses(&self, tokens: &Tokens) -> bool {
        let unsold = |(n, price, _): &(u64, u64, u64)| *n > 0 && *price == 0;
        self.provisional || self.parts(tokens).iter().any(unsold)
    }

    /// Tokens of each kind, the price of that kind, and what stands in for a price of zero.
    fn parts(&self, tokens: &Tokens) -> [(u64, u64, u64); 5] {
        let unsplit = tokens.input == 0 && tokens.output == 0;
        let input = if unsplit { tokens.total } else { tokens.input };
        let cached = tokens.cache_read.saturating_add(tokens.cache_write);
        let plain_input = match self.cache {
            CacheCounting::InsideInput => input.saturating_sub(cached),
            CacheCounting::BesideInput => input,
        };
        let reasoning = tokens.reasoning.min(tokens.output);
        let (price, unsold) = (&self.price, &self.unsold);
        [
            (plain_input, price.input, unsold.input),
            (tokens.cache_read, price.cache_read, unsold.cache_read),
            (tokens.cache_write, price.cache_write, unsold.cache_write),
            (tokens.output - reasoning, price.output, unsold.output),
            (reasoning, price.reasoning, unsold.reasoning),
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
            unsold: one,
        };
        assert_eq!(quote.cost(&tokens(499_999, 0)), Nanos(0));
        assert_eq!(quote.cost(&tokens(500_000, 0)), Nanos(1));
        let huge = tokens(u64::MAX, u64::MAX);
        assert_eq!(table().quote(Some("gpt-4o"), None).cost(&huge), Nanos::MAX);
    }
}
