//! Who pays in a workflow: the keys, and what each spent and holds there. Most workflows have one
//! payer, whose account is that of the workflow: it is kept once.

use crate::account::{Account, Executions};
use crate::chain::NONE;
use crate::rows::Rows;
use hashbrown::{DefaultHashBuilder, HashTable};
use persist::KeyId;
use std::hash::BuildHasher as _;

/// What a key spends in a workflow.
#[derive(Debug)]
pub struct Payer {
    /// The key.
    pub key: KeyId,
    /// The row of the workflow.
    pub row: u32,
    next: u32,
    /// `None` if it is all that the workflow spent and holds.
    pub own: Option<Box<Account>>,
}

impl Payer {
    /// Its account, given that of the workflow.
    #[must_use]
    pub fn account<'a>(&'a self, workflow: &'a Account) -> &'a Account {
        self.own.as_deref().unwrap_or(workflow)
    }
}

/// The payers of all workflows of a shard.
#[derive(Debug, Default)]
pub struct Payers {
    all: Rows<Payer>,
    /// Of the same payers, at the same places: apart, they take half the room.
    executions: Rows<Executions>,
    /// All but the first payer of each workflow.
    others: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Payers {
    /// The payer at a place.
    #[must_use]
    pub fn get(&self, at: u32) -> Option<&Payer> {
        self.all.get(at)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, at: u32) -> Option<&mut Payer> {
        self.all.get_mut(at)
    }

    /// The calls of the payer at a place.
    #[must_use]
    pub fn executions(&self, at: u32) -> Option<Executions> {
        self.executions.get(at).copied()
    }

    /// The same, to be changed.
    pub fn executions_mut(&mut self, at: u32) -> Option<&mut Executions> {
        self.executions.get_mut(at)
    }

    /// Every payer.
    pub fn iter(&self) -> impl Iterator<Item = &Payer> {
        self.all.iter()
    }

    /// The payers of a workflow, given its first.
    pub fn of_row(&self, first: u32) -> impl Iterator<Item = &Payer> {
        let mut at = first;
        std::iter::from_fn(move || {
            let payer = self.get(at)?;
            at = payer.next;
            Some(payer)
        })
    }

    /// The place of a key among the payers of a workflow, given its row and its first payer.
    #[must_use]
    pub fn find(&self, row: u32, first: u32, key: KeyId) -> Option<u32> {
        if self.get(first)?.key == key {
            return Some(first);
        }
        let same = |at: &u32| {
            let payer = self.get(*at);
            payer.is_some_and(|payer| payer.row == row && payer.key == key)
        };
        self.others
            .find(self.hasher.hash_one((row, key)), same)
            .copied()
    }

    /// Adds a payer with what it spent and holds already; returns its place.
    pub fn add(
        &mut self,
        row: u32,
        first: &mut u32,
        key: KeyId,
        account: Account,
        workflow: &Account,
    ) -> u32 {
        let Self {
            all,
            executions,
            others,
            hasher,
        } = self;
        executions.push(Executions::default());
        let sole = all.get(*first).is_none();
        let own = (!sole || account != *workflow).then(|| Box::new(account));
        let next = all.get(*first).map_or(NONE, |first| first.next);
        let at = all.push(Payer {
            key,
            row,
            next,
            own,
        });
        let Some(first) = all.get_mut(*first) else {
            *first = at;
            return at;
        };
        // Until now all was its own.
        first.own.get_or_insert_with(|| Box::new(workflow.clone()));
        first.next = at;
        others.insert_unique(hasher.hash_one((row, key)), at, |at| {
            let payer = all.get(*at);
            hasher.hash_one(payer.map_or((NONE, KeyId(0)), |payer| (payer.row, payer.key)))
        });
        at
    }
}
