//! The rules of `docs/semantics.md`, one behaviour per test, through [`engine::Engine::apply`].

#[cfg(test)]
mod budgets;
#[cfg(test)]
mod desk;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod order;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod reports;
