//! Who holds how many retained topics.
//!
//! The host may forget messages by itself (expiry), so a count can only be too high; before
//! somebody is refused the store is asked, once in a while.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use crate::{api::Identity, retained::RetainedStore};

/// The store is not asked more often: it takes as long as there are retained messages.
const RECOUNT_PAUSE_MS: u64 = 30_000;

/// Names are kept as hashes under a key of this process.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    hash: RandomState,
    holders: HashMap<u64, u64>,
    counts: HashMap<u64, usize>,
    recount_at_ms: u64,
}

impl Ledger {
    fn holder(&self, by: &Identity) -> u64 {
        match &by.user {
            Some(user) => self.hash.hash_one(("user", user)),
            None => self.hash.hash_one(("client", &by.client_id)),
        }
    }

    /// Counts anew what the store has.
    pub(crate) fn count(&mut self, store: &dyn RetainedStore) {
        (self.holders, self.counts) = Default::default();
        let mut found = Vec::new();
        store.matching("#", &mut found);
        for message in found {
            self.enter(&message.by, &message.topic);
        }
    }

    /// May this identity retain a message there, with at most so many topics?
    pub(crate) fn may_hold(
        &mut self,
        by: &Identity,
        topic: &str,
        max: usize,
        store: &Arc<dyn RetainedStore>,
        now_ms: u64,
    ) -> bool {
        let holder = self.holder(by);
        let full = |ledger: &Self| {
            ledger.holders.get(&ledger.hash.hash_one(topic)) != Some(&holder)
                && ledger.counts.get(&holder).is_some_and(|count| *count >= max)
        };
        if full(self) && now_ms >= self.recount_at_ms {
            self.recount_at_ms = now_ms + RECOUNT_PAUSE_MS;
            self.count(store.as_ref());
        }
        !full(self)
    }

    pub(crate) fn enter(&mut self, by: &Identity, topic: &str) {
        let holder = self.holder(by);
        let former = self.holders.insert(self.hash.hash_one(topic), holder);
        *self.counts.entry(holder).or_default() += 1;
        self.discharge(former);
    }

    pub(crate) fn remove(&mut self, topic: &str) {
        let former = self.holders.remove(&self.hash.hash_one(topic));
        self.discharge(former);
        if self.holders.len() * 4 < self.holders.capacity() {
            self.holders.shrink_to_fit();
        }
    }

    fn discharge(&mut self, former: Option<u64>) {
        let Some(former) = former else { return };
        if let Some(count) = self.counts.get_mut(&former) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&former);
            }
        }
        if self.counts.len() * 4 < self.counts.capacity() {
            self.counts.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{retained::MemoryStore, testing::identity};

    #[test]
    fn a_holder_has_so_many_topics_and_loses_those_that_others_take() {
        let store: Arc<dyn RetainedStore> = Arc::new(MemoryStore::new());
        let (anna, bert) = (identity("anna"), identity("bert"));
        let mut ledger = Ledger::default();
        let may = |ledger: &mut Ledger, by: &Identity, topic| {
            // The store is only asked at a later time than this.
            ledger.recount_at_ms = u64::MAX;
            ledger.may_hold(by, topic, 2, &store, 0)
        };
        ["a", "b", "b"].iter().for_each(|topic| ledger.enter(&anna, topic));
        assert!(may(&mut ledger, &anna, "b"), "one it holds already");
        assert!(!may(&mut ledger, &anna, "c"));
        assert!(may(&mut ledger, &bert, "c"));
        ledger.enter(&bert, "a");
        assert!(may(&mut ledger, &anna, "c"));
        ["a", "b"].iter().for_each(|topic| ledger.remove(topic));
        assert!(ledger.holders.is_empty() && ledger.counts.is_empty());
    }

    #[test]
    fn what_the_host_forgot_does_not_count_for_ever() {
        let store: Arc<dyn RetainedStore> = Arc::new(MemoryStore::new());
        let anna = identity("anna");
        let mut ledger = Ledger::default();
        ledger.enter(&anna, "gone");
        assert!(ledger.may_hold(&anna, "new", 1, &store, 1));
    }
}
