//! The engine's parts beside references that are too simple to be wrong.

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod cells;
#[cfg(test)]
mod holds;
#[cfg(test)]
mod periods;
#[cfg(test)]
mod policies;
