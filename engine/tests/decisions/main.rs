//! The rules of `docs/semantics.md`, one behaviour per test, through [`engine::Engine::apply`].

#[cfg(test)]
mod backlog;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod chains;
#[cfg(test)]
mod desk;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod learned_sizes;
#[cfg(test)]
mod loops;
#[cfg(test)]
mod members;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod order;
#[cfg(test)]
mod periods;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod prices;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod restored;
#[cfg(test)]
mod several_pumps;
#[cfg(test)]
mod shadow;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod soft_caps;
