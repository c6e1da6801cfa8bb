//! Release builds: no defects.

use persist::Millis;
use persist::group_commit::Batch;
use persist::record::Record;

/// Nothing is switched on.
#[derive(Debug, Default)]
pub struct Mutations;

#[expect(clippy::unused_self, reason = "the same interface as with defects")]
impl Mutations {
    pub(crate) const fn same(&self) -> Self {
        Self
    }

    pub(crate) const fn intercept(
        &mut self,
        _now: Millis,
        _record: &Record<'_>,
        _batch: &mut Batch,
    ) -> persist::Result<bool> {
        Ok(false)
    }

    pub(crate) const fn hold_back(&mut self, _record: &Record<'_>) -> bool {
        false
    }

    pub(crate) const fn due(
        &mut self,
        _now: Millis,
        _batch: &mut Batch,
    ) -> persist::Result<[Record<'static>; 0]> {
        Ok([])
    }
}
